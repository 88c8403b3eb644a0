/* sim_engine.h - what the parts of the simulated engine tell each other, and the agent. */
#ifndef DROVER_SIM_ENGINE_H
#define DROVER_SIM_ENGINE_H

#include "node/engine/engine.h"
#include "sim/model/sim_spec.h"

/* The settings of an engine made by sim_engine_create(). */
const struct sim_spec *sim_engine_spec(const struct engine *engine);

/* Names the engine, for "only_node", unless its settings did.  `name` is copied. */
void sim_engine_set_name(struct engine *engine, const char *name);

#endif
