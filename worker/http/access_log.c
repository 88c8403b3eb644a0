/* access_log.c - one JSON line per request. */
#include "worker/http/access_log.h"

#include <inttypes.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/text/buf.h"
#include "base/text/json.h"

/* A longer path is cut: the line must fit where a log sink can take it whole. */
#define MAX_TEXT_BYTES 1024

static void add_text(struct buf *out, const char *key, const char *text)
{
    buf_printf(out, ",\"%s\":", key);
    if (text == NULL) {
        buf_str(out, "null");
        return;
    }
    size_t n = 0;

    while (n < MAX_TEXT_BYTES && text[n] != '\0')
        n++;
    json_quote(out, text, n);
}

static void add_number(struct buf *out, const char *key, uint64_t value)
{
    buf_printf(out, ",\"%s\":%" PRIu64, key, value);
}

static void add_known(struct buf *out, const char *key, uint64_t value)
{
    if (value == 0)
        buf_printf(out, ",\"%s\":null", key);
    else
        add_number(out, key, value);
}

static void add_time(struct buf *out)
{
    uint64_t now_ms = clock_wall_ms();
    time_t now_s = (time_t)(now_ms / 1000);
    struct tm tm;
    char text[32];

    if (gmtime_r(&now_s, &tm) == NULL || strftime(text, sizeof(text), "%FT%T", &tm) == 0)
        text[0] = '\0';
    buf_printf(out, "{\"time\":\"%s.%03uZ\"", text, (unsigned)(now_ms % 1000));
}

void access_log_write(struct log_sink *sink, const struct access_record *record)
{
    static struct buf line; /* reused: a worker has one thread */

    if (sink == NULL)
        return;
    buf_reset(&line);
    add_time(&line);
    add_text(&line, "id", record->id);
    add_text(&line, "execution", record->execution);
    add_text(&line, "client", record->client);
    add_text(&line, "key", record->key);
    add_text(&line, "method", record->method);
    add_text(&line, "path", record->path);
    add_number(&line, "status", record->status);
    add_text(&line, "outcome", record->outcome);
    add_text(&line, "reason", record->reason);
    add_text(&line, "model", record->model);
    add_text(&line, "node", record->node);
    add_text(&line, "policy", record->policy);
    add_number(&line, "attempts", record->attempts);
    add_text(&line, "hedge", record->hedge);
    buf_printf(&line, ",\"stream\":%s", record->stream ? "true" : "false");
    add_number(&line, "bytes_in", record->bytes_in);
    add_number(&line, "bytes_out", record->bytes_out);
    add_known(&line, "prompt_tokens", record->prompt_tokens);
    add_known(&line, "cached_tokens", record->cached_tokens);
    add_known(&line, "output_tokens", record->output_tokens);
    add_number(&line, "queue_us", record->queue_us);
    add_known(&line, "ttft_us", record->ttft_us);
    add_number(&line, "total_us", record->total_us);
    buf_str(&line, "}\n");
    if (!line.failed)
        log_sink_write(sink, buf_head(&line), buf_size(&line));
}
