/* config_check.h - what must hold of a configuration beyond the type and range of each value.
 */
#ifndef DROVER_BASE_CONFIG_CHECK_H
#define DROVER_BASE_CONFIG_CHECK_H

#include "base/attrs.h"

struct config;
struct doc;
struct error;

/* Addresses, names, duplicates, files that must exist, values that must fit each other.  Reads
 * the token file into config->tokens.  `config` is complete, defaults included; `doc` is what
 * it came from.  DRV_EINVAL with one line; DRV_ENOMEM. */
MUST_CHECK int config_check(struct config *config, const struct doc *doc, struct error *err);

#endif
