/*
 * config_find.h - which configuration a program without -c means.
 *
 * A user's drover reads $XDG_CONFIG_HOME/drover/drover.yaml (~/.config/drover/drover.yaml) or,
 * when that is not there, /etc/drover/drover.yaml; root's reads the latter alone.  The first
 * that exists is it, also when it cannot be read.  Without any, all is as the defaults say.
 */
#ifndef DROVER_BASE_CONFIG_FIND_H
#define DROVER_BASE_CONFIG_FIND_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"

#define CONFIG_FIND_BYTES 1088 /* of a file's path */
#define CONFIG_FIND_MAX   2

#define CONFIG_DEFAULTS      "{}\n"         /* the text of a configuration that says nothing */
#define CONFIG_DEFAULTS_NAME "the defaults" /* in place of a file's name */

/* The files that are looked for, the first one first; how many there are. */
unsigned config_find_places(char out[CONFIG_FIND_MAX][CONFIG_FIND_BYTES]);

/* The first that exists.  False: there is none, and `out` is empty. */
MUST_CHECK bool config_find(char out[CONFIG_FIND_BYTES]);

/* The runtime_dir of a drover without -c that was started in this environment: of the file, or
 * the default; where a user's has no scoreboard and root's has one, root's.  For tools; a file
 * that cannot be read counts as one that does not give it. */
void config_find_runtime_dir(char *out, size_t cap);

#endif
