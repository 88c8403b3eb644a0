/* operate.h - the commands that change something: drain, undrain, reload, upgrade, scale, stop.
 */
#ifndef DROVER_DROVERCTL_OPERATE_H
#define DROVER_DROVERCTL_OPERATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "proto/control.h"

struct error;

struct operation {
    struct control_request request;
    bool wait;          /* drain: until the node is idle */
    uint32_t timeout_s; /* for the outcome; 0: as long as it takes */
    bool json;
    bool utf8;
};

/* Makes the request of a command and its argument (NULL = none).  DRV_EINVAL: the argument is
 * wrong; DRV_ENOENT: no such command. */
MUST_CHECK int operate_parse(struct control_request *out, const char *command,
                             const char *argument, struct error *err);

/* Sends it, waits, prints the answer: an exit status, with `err` set when that is not 0. */
MUST_CHECK int operate_run(const struct operation *operation, const char *runtime_dir,
                           struct error *err);

#endif
