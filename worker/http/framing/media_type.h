/* media_type.h - which content types a request may have.  Pure. */
#ifndef DROVER_WORKER_HTTP_FRAMING_MEDIA_TYPE_H
#define DROVER_WORKER_HTTP_FRAMING_MEDIA_TYPE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"

/*
 * May a body of the type `value`, a Content-Type header's (n = 0: there is none), be taken for
 * a form (`form`), or else for JSON?  Engines take JSON by whatever type clients call it: `curl
 * -d` says that it is a form, and fetch() that it is a text.  But a browser sends those for any
 * web page without asking first, so from a page that is not listed (`stranger`) they are
 * refused.
 */
MUST_CHECK bool media_type_fits(const char *value, size_t n, bool form, bool stranger);

#endif
