/*
 * account.h - what a request was: its line of access log, and its key's usage.
 *
 * Called once for each request, while the client's side of it is still there.
 */
#ifndef DROVER_WORKER_ACCOUNT_H
#define DROVER_WORKER_ACCOUNT_H

#include <stdbool.h>

struct request;

/* `gone`: the client left before the end. */
void account_request(const struct request *req, bool gone);

#endif
