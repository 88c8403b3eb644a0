/* histogram.c - log-linear latency histogram. */
#include "base/histogram.h"

#include <string.h>

/*
 * Bucket 0 takes what is below LOWEST_US.  Bucket 1 + 16 k + j takes
 * [LOWEST_US * 2^k * (16 + j) / 16, LOWEST_US * 2^k * (17 + j) / 16).  The last takes the rest:
 * everything from about 1 h 45 min.  Bounds that are not whole microseconds are rounded up,
 * which moves no whole microsecond to another bucket.
 */
#define LOWEST_US    UINT64_C(100)
#define PER_DOUBLING 16u
#define LAST         (HISTOGRAM_BUCKETS - 1)

uint64_t histogram_lower_us(unsigned bucket)
{
    unsigned k, j;

    if (bucket == 0)
        return 0;
    if (bucket > LAST)
        bucket = LAST;
    k = (bucket - 1) / PER_DOUBLING;
    j = (bucket - 1) % PER_DOUBLING;
    return (((LOWEST_US * (PER_DOUBLING + j)) << k) + PER_DOUBLING - 1) / PER_DOUBLING;
}

uint64_t histogram_upper_us(unsigned bucket)
{
    return bucket >= LAST ? UINT64_MAX : histogram_lower_us(bucket + 1);
}

unsigned histogram_bucket(uint64_t us)
{
    unsigned k, j;

    if (us < LOWEST_US)
        return 0;
    if (us >= histogram_lower_us(LAST))
        return LAST;
    k = 63u - (unsigned)__builtin_clzll(us / LOWEST_US);
    j = (unsigned)(us * PER_DOUBLING / (LOWEST_US << k)) - PER_DOUBLING;
    return 1 + k * PER_DOUBLING + j;
}

uint64_t histogram_quantile_us(const struct histogram *h, double fraction)
{
    double rank, seen = 0;
    unsigned b, found = 0;

    if (h->count == 0)
        return 0;
    if (!(fraction > 0)) /* also not a number */
        fraction = 0;
    if (fraction > 1)
        fraction = 1;
    rank = fraction * (double)h->count;
    for (b = 0; b < HISTOGRAM_BUCKETS; b++) {
        if (h->bucket[b] == 0)
            continue;
        found = b;
        seen += (double)h->bucket[b];
        if (seen >= rank)
            break;
    }
    if (found == LAST)
        return histogram_lower_us(LAST); /* it has no middle */
    return histogram_lower_us(found) +
           (histogram_upper_us(found) - histogram_lower_us(found)) / 2;
}
