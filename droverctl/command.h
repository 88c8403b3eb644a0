/* command.h - the operator's commands, sent to the master over its control socket. */
#ifndef DROVER_DROVERCTL_COMMAND_H
#define DROVER_DROVERCTL_COMMAND_H

#include <stdint.h>

#include "base/attrs.h"
#include "proto/control.h"

struct error;

/*
 * Sends one request and waits for its reply; each progress message goes to `progress` (may be
 * NULL) as it comes.  Blocks until `until_mono_us` (0 = no such limit), or until nothing
 * has been received for two minutes.
 *   0             *reply is the master's answer, good or bad
 *   DRV_ENOENT    no listener: the master is not running
 *   DRV_EPERM     not the user that runs it, and not root
 *   DRV_EAGAIN    no answer in time     DRV_ECLOSED  it hung up     DRV_EPROTO, DRV_ESYS
 */
MUST_CHECK int command_send(struct control_reply *reply, const char *runtime_dir,
                            const struct control_request *request, uint64_t until_mono_us,
                            void (*progress)(const char *text), struct error *err);

#endif
