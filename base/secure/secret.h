/*
 * secret.h - memory and files that hold a secret: zeroed before they are freed or refused.
 *
 * stdio is not used for such files: its buffers would keep a copy.
 */
#ifndef DROVER_BASE_SECURE_SECRET_H
#define DROVER_BASE_SECURE_SECRET_H

#include <stddef.h>

#include "base/attrs.h"

struct error;

/* Zeroes a string up to its NUL, and frees it.  NULL is allowed. */
void secret_free(char *text);

/*
 * Reads a whole file into `text`, with a NUL at the end.  DRV_ESYS; DRV_EINVAL: it has `cap`
 * bytes or more, or holds a NUL.  After an error `text` is zeroed.  The caller zeroes it after
 * use.
 */
MUST_CHECK int secret_read(char *text, size_t cap, const char *path, struct error *err);

#endif
