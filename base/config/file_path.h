/*
 * file_path.h - where a path that a person wrote leads.
 *
 * "~" and "~/x" lead to the home directory, which is $HOME; a relative path starts at the file
 * that names it.  Symbolic links are not looked at.
 */
#ifndef DROVER_BASE_FILE_PATH_H
#define DROVER_BASE_FILE_PATH_H

#include <stddef.h>

#include "base/attrs.h"

struct error;

#define FILE_PATH_BYTES 1088 /* of a base directory, or of what comes out */

/* Writes the path that `text` means.  `base`: an absolute directory for relative paths; NULL:
 * they stay as they are.  An empty text stays empty.  DRV_EINVAL, with a reason that does not
 * quote `text`: HOME is not set or no absolute path, "~user", too long for `cap`. */
MUST_CHECK int file_path(char *out, size_t cap, const char *base, const char *text,
                         struct error *err);

/* The directory of a file's path, absolute: relative paths in that file start there.
 * DRV_EINVAL: too long; DRV_ESYS: the working directory is not there any more. */
MUST_CHECK int file_path_base(char *out, size_t cap, const char *file, struct error *err);

#endif
