/* show_histogram.c - `histogram NODE`: how long things take there, as bars. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "droverctl/format/emit.h"
#include "droverctl/format/text.h"
#include "droverctl/view.h"
#include "shm/facts/stats.h"

#define MAX_BARS 20u

static int find_histogram(enum stats_histogram *out, const char *which, struct error *err)
{
    for (unsigned h = 0; h < STATS_HISTOGRAMS; h++) {
        if (strcmp(which, stats_histogram_name((enum stats_histogram)h)) == 0) {
            *out = (enum stats_histogram)h;
            return 0;
        }
    }
    return error_set(err, DRV_EINVAL,
                     "no histogram is called \"%.64s\" (there are ttft, tpot, e2e, connect)",
                     which);
}

static const char *describe(enum stats_histogram which)
{
    switch (which) {
    case STATS_TTFT:
        return "time to first token";
    case STATS_TPOT:
        return "time per output token";
    case STATS_E2E:
        return "end to end";
    case STATS_CONNECT:
        return "time to connect";
    case STATS_HISTOGRAMS:
        break;
    }
    return "";
}

static void histogram_json(struct view *view, const char *name, enum stats_histogram which,
                           const struct histogram *h)
{
    struct buf *out = &view->out;

    emit_object(out, NULL);
    emit_text(out, "node", name);
    emit_text(out, "histogram", stats_histogram_name(which));
    emit_uint(out, "count", h->count);
    emit_uint(out, "sum_us", h->sum_us);
    emit_uint(out, "p50_us", histogram_quantile_us(h, 0.5));
    emit_uint(out, "p90_us", histogram_quantile_us(h, 0.9));
    emit_uint(out, "p99_us", histogram_quantile_us(h, 0.99));
    emit_array(out, "buckets");
    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
        if (h->bucket[b] == 0)
            continue;
        emit_object(out, NULL);
        emit_uint(out, "from_us", histogram_lower_us(b));
        if (b == HISTOGRAM_BUCKETS - 1)
            emit_null(out, "to_us");
        else
            emit_uint(out, "to_us", histogram_upper_us(b));
        emit_uint(out, "count", h->bucket[b]);
        emit_end_object(out);
    }
    emit_end_array(out);
    emit_end_object(out);
}

/* Buckets first..last, in groups of the least power of two that makes at most MAX_BARS bars.
 * Groups begin at bucket 1, where the doublings begin; bucket 0 stands alone. */
static void add_bars(struct view *view, const struct histogram *h, unsigned first,
                     unsigned last)
{
    unsigned group = 1;
    uint64_t most = 0, sum[HISTOGRAM_BUCKETS] = {0};

    while ((last - first) / group + 2 > MAX_BARS)
        group *= 2;
    for (unsigned b = first; b <= last; b++) {
        unsigned at = b == 0 ? 0 : 1 + (b - 1) / group;

        sum[at] += h->bucket[b];
        if (sum[at] > most)
            most = sum[at];
    }
    for (unsigned at = first == 0 ? 0 : 1 + (first - 1) / group;
         at <= (last == 0 ? 0 : 1 + (last - 1) / group); at++) {
        unsigned from = at == 0 ? 0 : 1 + (at - 1) * group;
        unsigned to = at == 0 ? 0 : from + group - 1;
        double share = h->count == 0 ? 0 : (double)sum[at] / (double)h->count;
        char lower[TEXT_SHORT_BYTES], upper[TEXT_SHORT_BYTES], count[TEXT_SHORT_BYTES];
        char percent[16];

        if (to >= HISTOGRAM_BUCKETS - 1)
            (void)snprintf(upper, sizeof(upper), "more");
        else
            (void)text_duration(upper, histogram_upper_us(to));
        if (from == 0)
            (void)snprintf(lower, sizeof(lower), "0");
        else
            (void)text_duration(lower, histogram_lower_us(from));
        (void)snprintf(percent, sizeof(percent), "%.1f%%", share <= 1 ? share * 100 : 100.0);
        buf_printf(&view->out, "%8s .. %-8s %6s %6s  ", lower, upper,
                   text_count(count, sum[at]), percent);
        style_bar(&view->out, &view->style, most == 0 ? 0 : (double)sum[at] / (double)most,
                  view->style.width - 38);
        buf_str(&view->out, "\n");
    }
}

static void histogram_text(struct view *view, const char *name, enum stats_histogram which,
                           const struct histogram *h)
{
    char p50[TEXT_SHORT_BYTES], p90[TEXT_SHORT_BYTES], p99[TEXT_SHORT_BYTES],
        mean[TEXT_SHORT_BYTES], count[TEXT_SHORT_BYTES];
    unsigned first = 0, last = HISTOGRAM_BUCKETS - 1;
    struct buf escaped = BUF_INIT;

    text_escape(&escaped, name, view->style.utf8);
    style_add(&view->out, &view->style, TONE_HEAD, (const char *)buf_head(&escaped),
              text_prefix((const char *)buf_head(&escaped), buf_size(&escaped), 40));
    buf_finish(&escaped);
    buf_printf(&view->out, ", %s: %s sample%s\n", describe(which), text_count(count, h->count),
               h->count == 1 ? "" : "s");
    if (h->count == 0)
        return;
    buf_printf(&view->out, "p50 %s   p90 %s   p99 %s   mean %s\n\n",
               text_duration(p50, histogram_quantile_us(h, 0.5)),
               text_duration(p90, histogram_quantile_us(h, 0.9)),
               text_duration(p99, histogram_quantile_us(h, 0.99)),
               text_duration(mean, h->sum_us / h->count));
    while (first < last && h->bucket[first] == 0)
        first++;
    while (last > first && h->bucket[last] == 0)
        last--;
    add_bars(view, h, first, last);
}

int show_histogram(struct view *view, const char *name, const char *which, struct error *err)
{
    enum stats_histogram kind = STATS_TTFT;
    char full[NODE_NAME_BYTES];
    struct histogram h;
    int node, rc;

    rc = find_histogram(&kind, which, err);
    if (rc != 0)
        return rc;
    node = view_find_node(view, name, err);
    if (node < 0)
        return DRV_ENOENT;
    view_node_name(full, view->board, (unsigned)node);
    stats_read_histogram(view->board, (unsigned)node, kind, &h);
    if (view->json)
        histogram_json(view, full, kind, &h);
    else
        histogram_text(view, full, kind, &h);
    return 0;
}
