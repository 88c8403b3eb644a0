/*
 * verify.h - do the certificates and keys that a configuration names load, and fit each other?
 *
 * For `drover -t`, and for a child of its own at a reload: the master itself never makes a TLS
 * context, because its children would inherit it.
 */
#ifndef DROVER_MASTER_VERIFY_H
#define DROVER_MASTER_VERIFY_H

#include "base/attrs.h"

struct config;
struct error;

/* DRV_EINVAL with one line that names the key and the file. */
MUST_CHECK int verify_tls(const struct config *config, struct error *err);

#endif
