/* error.c - result codes with text. */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int error_set(struct error *err, int code, const char *fmt, ...)
{
    va_list ap;

    if (err == NULL)
        return code;
    err->code = code;
    va_start(ap, fmt);
    (void)vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    return code;
}

int error_sys(struct error *err, const char *what)
{
    int saved = errno;

    (void)error_set(err, DRV_ESYS, "%s: %s", what, strerror(saved));
    errno = saved;
    return DRV_ESYS;
}

int error_wrap(struct error *err, int code, const char *fmt, ...)
{
    char context[ERROR_TEXT_BYTES];
    char inner[ERROR_TEXT_BYTES];
    va_list ap;

    if (err == NULL)
        return code;
    va_start(ap, fmt);
    (void)vsnprintf(context, sizeof(context), fmt, ap);
    va_end(ap);
    memcpy(inner, err->text, sizeof(inner));
    inner[sizeof(inner) - 1] = '\0';
    err->code = code;
    /* Cutting the tail of a very long text is what we want here. */
    if (snprintf(err->text, sizeof(err->text), "%.200s: %.300s", context, inner) < 0)
        err->text[0] = '\0';
    return code;
}

const char *error_name(int code)
{
    switch (code) {
    case DRV_OK:
        return "ok";
    case DRV_ESYS:
        return "esys";
    case DRV_ENOMEM:
        return "enomem";
    case DRV_EINVAL:
        return "einval";
    case DRV_ENOENT:
        return "enoent";
    case DRV_EVERSION:
        return "eversion";
    case DRV_ECORRUPT:
        return "ecorrupt";
    case DRV_EFULL:
        return "efull";
    case DRV_EAGAIN:
        return "eagain";
    case DRV_ETOOBIG:
        return "etoobig";
    case DRV_EPROTO:
        return "eproto";
    case DRV_EEXIST:
        return "eexist";
    case DRV_EPERM:
        return "eperm";
    case DRV_ECLOSED:
        return "eclosed";
    }
    return "unknown";
}
