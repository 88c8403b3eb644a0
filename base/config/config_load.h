/*
 * config_load.h - from a file to a configuration that has been checked.
 *
 * The only part of base/config/ that knows the others: doc, schema, check.
 */
#ifndef DROVER_BASE_CONFIG_LOAD_H
#define DROVER_BASE_CONFIG_LOAD_H

#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct buf;
struct config;
struct error;

/*
 * Loads and checks a file.  On success *out is owned by the caller (config_destroy).  On
 * failure *out is NULL and `err` is one line that names file, line and key. DRV_ENOENT  no such
 * file        DRV_ESYS   it cannot be read DRV_EINVAL  anything wrong in it: syntax, unknown
 * key, type, range, address, duplicate node
 */
MUST_CHECK int config_load(struct config **out, const char *path, struct error *err);

/* The same from memory; `name` is the file's: for messages, and paths are relative to it. */
MUST_CHECK int config_parse(struct config **out, const char *text, size_t n, const char *name,
                            struct error *err);
void config_destroy(struct config *config); /* NULL is allowed; wipes the tokens */

/* Where the value of "limits.max_nodes" stands in a text that config_parse() has taken; of a
 * default, where what is around it does.  Counted from 1. */
void config_place(const char *text, size_t n, const char *key, uint32_t *line,
                  uint32_t *column);

/* Appends the text of a file, but not more than a config may have plus a little, so that
 * config_parse() can refuse it.  DRV_ENOENT, DRV_ESYS, DRV_ENOMEM. */
MUST_CHECK int config_read(struct buf *text, const char *path, struct error *err);

#endif
