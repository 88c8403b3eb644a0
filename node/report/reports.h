/* reports.h - the calls that ask about the node: Describe and WatchLoad. */
#ifndef DROVER_NODE_REPORT_REPORTS_H
#define DROVER_NODE_REPORT_REPORTS_H

#include "proto/rpc/grpc/server.h"

struct agent;

#define REPORTS_METHODS 2

/* `agent` is borrowed and outlives the server. */
void reports_methods(struct agent *agent, struct server_method out[REPORTS_METHODS]);

#endif
