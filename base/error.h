/*
 * error.h - result codes, and the text for a failure that the operator sees.
 *
 * A fallible function returns 0 or a negative DRV_E* code.  If the operator sees the failure,
 * it also takes `struct error *err` last (NULL is allowed), fills it where the failure happens,
 * and callers add context outward with error_wrap(): "config a.yaml: line 3: unknown key".
 */
#ifndef DROVER_BASE_ERROR_H
#define DROVER_BASE_ERROR_H

#include "base/attrs.h"

enum {
    DRV_OK = 0,
    DRV_ESYS = -1,     /* a system call failed; the text holds strerror(errno) */
    DRV_ENOMEM = -2,   /* out of memory, or over a memory budget */
    DRV_EINVAL = -3,   /* the input is wrong; the text says where */
    DRV_ENOENT = -4,   /* no such thing */
    DRV_EVERSION = -5, /* written by another version of this program */
    DRV_ECORRUPT = -6, /* the bytes contradict themselves */
    DRV_EFULL = -7,    /* a table, queue or buffer of fixed size is full */
    DRV_EAGAIN = -8,   /* not now; try again */
    DRV_ETOOBIG = -9,  /* over a size limit */
    DRV_EPROTO = -10,  /* the peer broke the protocol */
    DRV_EEXIST = -11,  /* already there */
    DRV_EPERM = -12,   /* not allowed */
    DRV_ECLOSED = -13, /* the other end is gone */
};

#define ERROR_TEXT_BYTES 512

struct error {
    int code;                    /* DRV_E*, 0 = no error */
    char text[ERROR_TEXT_BYTES]; /* one line, NUL-terminated; cut when too long */
};

/* Fills `err` and returns `code`, so that `return error_set(...)` reads well. */
int error_set(struct error *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Fills `err` with "<what>: <strerror(errno)>" and returns DRV_ESYS.  Keeps errno. */
int error_sys(struct error *err, const char *what);

/* Puts "<context>: " before the text that is already there.  Returns `code`. */
int error_wrap(struct error *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* A short lower-case name of a code, for logs: "esys", "einval". */
const char *error_name(int code);

#endif
