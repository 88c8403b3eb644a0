/* key.h - makes API keys. */
#ifndef DROVER_DROVERCTL_KEY_H
#define DROVER_DROVERCTL_KEY_H

#include "base/attrs.h"

/* Prints the line of a new key for api.keys_file on standard output, and the key itself, which
 * is stored nowhere, on standard error.  `name` is good (api_key_name_good()).  Returns an exit
 * status. */
MUST_CHECK int key_new(const char *name);

#endif
