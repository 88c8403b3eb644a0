/* metrics.h - reading Prometheus' text format.  Pure. */
#ifndef DROVER_NODE_ENGINE_KINDS_METRICS_H
#define DROVER_NODE_ENGINE_KINDS_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

/* Sum over the samples of a metric, whatever their labels; false when there is none. */
MUST_CHECK bool metrics_sum(const void *text, size_t n, const char *name, double *out);

/* Likewise the largest of them. */
MUST_CHECK bool metrics_largest(const void *text, size_t n, const char *name, double *out);

/* Does any metric's name begin so? */
MUST_CHECK bool metrics_any(const void *text, size_t n, const char *prefix);

/* A gauge as a small number, a counter as a total; 0 when it is neither. */
uint32_t metrics_count(double v);
uint64_t metrics_total(double v);

#endif
