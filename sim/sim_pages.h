/*
 * sim_pages.h - the simulated engine's facts about itself: the bodies of its GETs.
 *
 * The pages are llama-server's, with the members that drover-node and load balancers read, so
 * that slots, models, contexts, speeds and load are found as those of a real engine are.
 */
#ifndef DROVER_SIM_PAGES_H
#define DROVER_SIM_PAGES_H

#include <stdint.h>

struct buf;
struct sim_engine;

/* GET /v1/models.  `created_s` is an instant on the wall. */
void sim_pages_models(struct buf *out, const struct sim_engine *engine, uint64_t created_s);

/* GET /props: slots, context of the first model, version. */
void sim_pages_props(struct buf *out, const struct sim_engine *engine);

/* GET /metrics, for Prometheus. */
void sim_pages_metrics(struct buf *out, const struct sim_engine *engine);

#endif
