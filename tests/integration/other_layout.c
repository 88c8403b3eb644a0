/* other_layout.c - the scoreboard of a Drover with another layout, for tests of upgrades. */
#include "shm/layout.h"

#undef SB_LAYOUT_VERSION
#define SB_LAYOUT_VERSION 999u

#include "shm/scoreboard.c" /* instead of the one in the library */
