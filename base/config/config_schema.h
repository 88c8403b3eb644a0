/*
 * config_schema.h - from the tree of a configuration file to struct config.
 *
 * One table (libcyaml's) says which keys there are and of what type, a second one the default
 * and range of every number.  The strict check reads the same tables before libcyaml does, so
 * that a person gets a line, a key and a reason.
 */
#ifndef DROVER_BASE_CONFIG_SCHEMA_H
#define DROVER_BASE_CONFIG_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"
#include "base/config/config.h"

struct doc;
struct error;

/* Is every key known, once, of the right type and in range?  DRV_EINVAL with one line. */
MUST_CHECK int config_schema_check(const struct doc *doc, struct error *err);

/* Fills a new config from a tree that has passed the check, numbers that the file does not give
 * from their defaults.  The caller owns *out (config_destroy). */
MUST_CHECK int config_schema_load(struct config **out, const struct doc *doc,
                                  struct error *err);

/* Frees a config and every string in it, but the tokens. */
void config_schema_free(struct config *config);

#endif
