/* metrics.c - reading Prometheus' text format. */
#include "node/engine/kinds/metrics.h"

#include <stdlib.h>
#include <string.h>

/* All samples of a metric. */
struct samples {
    double sum, largest;
};

static bool read_samples(const void *text, size_t n, const char *name, struct samples *out)
{
    const char *p = text, *end = p + n;
    size_t len = strlen(name);
    bool some = false;

    *out = (struct samples){0};

    while (p < end) {
        const char *line = p;
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        const char *value;
        char number[64];
        double sample;

        if (eol == NULL)
            eol = end;
        p = eol + 1;
        if ((size_t)(eol - line) <= len || memcmp(line, name, len) != 0 ||
            (line[len] != ' ' && line[len] != '{'))
            continue;
        value = line + len;
        if (*value == '{') {
            /* Label values may hold anything, a brace too: the last one ends the labels. */
            value = memrchr(line, '}', (size_t)(eol - line));
            if (value == NULL)
                continue;
            value++;
        }
        while (value < eol && *value == ' ')
            value++;
        if (value == eol || (size_t)(eol - value) >= sizeof(number))
            continue;
        memcpy(number, value, (size_t)(eol - value));
        number[eol - value] = '\0';
        sample = strtod(number, NULL);
        out->sum += sample;
        if (!some || sample > out->largest)
            out->largest = sample;
        some = true;
    }
    return some;
}

bool metrics_sum(const void *text, size_t n, const char *name, double *out)
{
    struct samples samples;
    bool some = read_samples(text, n, name, &samples);

    *out = samples.sum;
    return some;
}

bool metrics_largest(const void *text, size_t n, const char *name, double *out)
{
    struct samples samples;
    bool some = read_samples(text, n, name, &samples);

    *out = samples.largest;
    return some;
}

bool metrics_any(const void *text, size_t n, const char *prefix)
{
    const char *p = text, *end = p + n;
    size_t len = strlen(prefix);

    while (p < end && (size_t)(end - p) >= len) {
        if (memcmp(p, prefix, len) == 0)
            return true;
        p = memchr(p, '\n', (size_t)(end - p));
        if (p == NULL)
            return false;
        p++;
    }
    return false;
}

uint32_t metrics_count(double v)
{
    return v > 0 && v < 1e9 ? (uint32_t)v : 0;
}

uint64_t metrics_total(double v)
{
    return v > 0 && v < 1e18 ? (uint64_t)v : 0;
}
