/* infer.h - the life of one request on its way through the agent. */
#ifndef DROVER_NODE_INFER_H
#define DROVER_NODE_INFER_H

#include <stdint.h>

#include "node/agent.h"

/* Serves /drover.v1.Inference/Infer; the method's data is the agent. */
extern const struct server_handler infer_handler;

/* For the agent's end of turn: frees what has ended, starts what waits and has a slot. */
void infer_turn(struct agent *agent);

/* Frees every execution; for agent_destroy(), when no call is left. */
void infer_free_all(struct agent *agent);

#endif
