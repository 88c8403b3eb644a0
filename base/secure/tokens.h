/*
 * tokens.h - the text of a token file, as coordinator and node both read it.  Pure.
 *
 * The token is the first line and, while it is being replaced, the previous one the second.
 * White space around a line, empty lines and those that begin with '#' do not count.
 */
#ifndef DROVER_BASE_SECURE_TOKENS_H
#define DROVER_BASE_SECURE_TOKENS_H

#include "base/attrs.h"

struct error;

#define TOKENS_MAX      2
#define TOKEN_MIN_BYTES 8
#define TOKEN_MAX_BYTES 256

/* Takes the tokens out of `text`, newest first, "" where there is none.  DRV_EINVAL; `err` says
 * what is wrong and never quotes the file. */
MUST_CHECK int tokens_parse(char out[TOKENS_MAX][TOKEN_MAX_BYTES + 1], const char *text,
                            struct error *err);

#endif
