/*
 * log.h - one event, one line: `level=info at=... proc=worker0 msg="..." key=value`.
 *
 * Writing never blocks: the descriptor is made non-blocking when it is a pipe, a line that does
 * not fit is dropped and counted, and the next line that fits says how many were lost.  Bytes
 * that are not printable ASCII are escaped, so no client or node can forge a line.  A full disk
 * loses lines in the same way, and they come again when there is room.
 *
 * Levels: info is a change that an operator cares about; warn is worked around; error
 * lost a request or a child; debug is the rest.  Nothing per token.
 */
#ifndef DROVER_BASE_LOG_H
#define DROVER_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct error;
struct buf;

enum log_level {
    LOG_LEVEL_ERROR = 0,
    LOG_LEVEL_WARN = 1,
    LOG_LEVEL_INFO = 2,
    LOG_LEVEL_DEBUG = 3,
};

/* The level of this name ("info"); false: there is none. */
MUST_CHECK bool log_level_parse(enum log_level *out, const char *name);

/* Sets what this process calls itself in its lines ("master", "worker0").  Copied. */
void log_set_proc(const char *name);
void log_set_level(enum log_level level);
bool log_enabled(enum log_level level);

/*
 * Sends lines to `path` (NULL or "": standard error), created with mode 0640.  log_reopen()
 * opens the same path again, after a rotation.  On failure the old destination stays. DRV_ESYS:
 * open failed.
 */
MUST_CHECK int log_open(const char *path, struct error *err);
MUST_CHECK int log_reopen(struct error *err);

/* From now on the text of the last error line is also written to `where` (n > 0 bytes, NUL at
 * its end, outlives the process's logging): a parent reports it when the child dies.  NULL:
 * stop. */
void log_keep_last_error(char *where, size_t n);

/* One line.  `fmt` makes the whole text after the fixed fields: `event=reload workers=%u`.
 * Text from outside must go through log_quote(). */
void log_line(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* Text from outside, escaped, cut at 200 bytes and put in double quotes.  Returns a pointer to
 * one of a few static buffers: good for up to four uses in one log_line(). */
const char *log_quote(const char *text);
const char *log_quote_n(const void *bytes, size_t n);

/* True at most `per_s` times a second for one `state` (zero-initialised by the caller), so that
 * a flood of the same trouble gives a trickle of lines.  *missed gets how many were refused
 * since the last true. */
struct log_limit {
    uint64_t window_mono_us;
    uint32_t count;
    uint32_t missed;
};
MUST_CHECK bool log_limit_ok(struct log_limit *limit, uint32_t per_s, uint32_t *missed);
/* The same once a minute, for a fault that lasts until the operator mends it. */
MUST_CHECK bool log_limit_minute(struct log_limit *limit, uint32_t *missed);

/*
 * A second destination with the same promises, for lines that are not log lines (the access
 * log). `path` NULL or "": none; "-": standard output.
 */
struct log_sink;
MUST_CHECK int log_sink_open(struct log_sink **out, const char *path, struct error *err);
/* One whose file may not be there yet: its lines are lost, and counted, until log_sink_reopen()
 * or log_count_lost() can open it.  DRV_ENOMEM. */
MUST_CHECK int log_sink_open_later(struct log_sink **out, const char *path, struct error *err);
MUST_CHECK int log_sink_reopen(struct log_sink *sink, struct error *err);
void log_sink_close(struct log_sink *sink); /* NULL is allowed */
/* Writes `n` bytes, which must end in a newline, whole or not at all. */
void log_sink_write(struct log_sink *sink, const void *bytes, size_t n);
/*
 * For a counter: how many lines the log and `sink` (may be NULL) have lost since the last call.
 * Says so as well, at most once a minute each: the log for `sink`, standard error for the log.
 * Call it now and then.
 */
uint64_t log_count_lost(struct log_sink *sink);

#endif
