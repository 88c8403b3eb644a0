/*
 * metrics.h - a snapshot as Prometheus text (exposition format 0.0.4).  Pure.
 *
 * Two families of names: drover_*, and those of OpenTelemetry's conventions for generative AI
 * in their Prometheus spelling, so that ready-made dashboards work.  Three names are those of
 * Paddler, for an easy move.
 */
#ifndef DROVER_HEALTH_METRICS_H
#define DROVER_HEALTH_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct buf;
struct histogram;
struct snapshot;

#define METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* A node costs about 200 lines; the limit protects the scraper.  A metric counts the nodes
 * left out. */
#define METRICS_MAX_NODES 256u

/* Upper bounds of the histogram buckets, in microseconds: edges of the scoreboard's own
 * buckets, so that the cumulative counts are exact. */
#define METRICS_BOUNDS 18u
extern const uint64_t metrics_bound_us[METRICS_BOUNDS];

/* Appends a part of the text, which are numbered from 0: no more than some milliseconds of
 * work, as the loop has others to serve.  False: it was the last.  Check out->failed then. */
MUST_CHECK bool metrics_build_part(struct buf *out, const struct snapshot *snapshot,
                                   unsigned part);

/* Appends all of it. */
void metrics_build(struct buf *out, const struct snapshot *snapshot);

/* The number of samples under a bound of the table above. */
uint64_t metrics_below(const struct histogram *h, uint64_t bound_us);

#endif
