/*
 * reasons.h - why a transfer to an engine failed, and what to do about it.
 *
 * The texts do not change from one try to the next as long as the cause does not, so that a log
 * may say each cause once.  Pure.
 */
#ifndef DROVER_NODE_ENGINE_LOOK_REASONS_H
#define DROVER_NODE_ENGINE_LOOK_REASONS_H

#include <curl/curl.h>
#include <stddef.h>

/* Writes "what happened: what to do".  `details` is libcurl's own text about a certificate; ""
 * when it has none. */
void reasons_of_transfer(char *out, size_t cap, CURLcode code, const char *details);

#endif
