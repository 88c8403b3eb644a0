/*
 * config_expand.h - what stands in a configuration for something else: ${NAME}, ~, a path that
 * is relative to its file, a URL for an address.
 *
 * Works on the tree, after parsing: so no variable can add a key or end a value, whatever it
 * holds, and nothing is expanded twice.
 */
#ifndef DROVER_BASE_CONFIG_EXPAND_H
#define DROVER_BASE_CONFIG_EXPAND_H

#include "base/attrs.h"

struct doc;
struct doc_item;
struct error;

/* Puts the environment's values in place of ${NAME} in all values; "$${" becomes "${".  No
 * message quotes a value.  DRV_EINVAL with the place and the name; DRV_ENOMEM. */
MUST_CHECK int config_expand_variables(struct doc *doc, struct error *err);

/* Makes paths absolute, and addresses of URLs.  The document has passed
 * config_schema_check().  DRV_EINVAL with the place; DRV_ENOMEM, DRV_ESYS. */
MUST_CHECK int config_expand_places(struct doc *doc, struct error *err);

/* Both for one scalar that is a path, in a document that nothing has checked. */
MUST_CHECK int config_expand_path(struct doc *doc, struct doc_item *item, struct error *err);

#endif
