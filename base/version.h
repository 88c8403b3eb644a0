/*
 * version.h - which build of Drover this is.
 *
 * The number is CMakeLists.txt's alone, DROVER_VERSION.
 */
#ifndef DROVER_BASE_VERSION_H
#define DROVER_BASE_VERSION_H

/* "0.1.0 (commit 8cbc5c3d2a41, RelWithDebInfo, gcc 12.2.0)": with "-changed" after the commit
 * when files differed from it; without a commit where the source is no git work tree. */
const char *version_text(void);

#endif
