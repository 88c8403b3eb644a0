/*
 * histogram.h - log-linear latency histogram.  Pure; the buckets may be anyone's memory.
 *
 * Durations from 100 us to 1 h, 16 equal buckets per doubling, so a quantile is at most 3.2 %
 * off (half a bucket); below and above are one bucket each.  Same shape as HdrHistogram (Tene,
 * 2013).
 */
#ifndef DROVER_BASE_HISTOGRAM_H
#define DROVER_BASE_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_BUCKETS 416u

/* A private copy of a histogram. */
struct histogram {
    uint64_t bucket[HISTOGRAM_BUCKETS]; /* counts */
    uint64_t count;                     /* their sum */
    uint64_t sum_us;                    /* of all samples */
};

/* The bucket of a duration; its lower bound (inclusive) and upper bound (exclusive). */
unsigned histogram_bucket(uint64_t us);
uint64_t histogram_lower_us(unsigned bucket);
uint64_t histogram_upper_us(unsigned bucket);

/* The duration below which `fraction` (0..1) of the samples lie: the middle of its bucket, so
 * at most half a bucket off; 0 without samples. */
uint64_t histogram_quantile_us(const struct histogram *h, double fraction);

#endif
