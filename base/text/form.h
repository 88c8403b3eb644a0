/* form.h - the fields of a multipart/form-data body. */
#ifndef DROVER_BASE_FORM_H
#define DROVER_BASE_FORM_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"

/* Finds the field called `name` in a body of this content type; *value is borrowed from the
 * body.  False when the body is no form or has no such field.  Pure. */
MUST_CHECK bool form_find(const char *content_type, const void *body, size_t len,
                          const char *name, const char **value, size_t *value_len);

#endif
