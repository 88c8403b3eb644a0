/* log.c - one event, one line; never blocks. */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"

#define LINE_BYTES 2048
#define ALARM_US   (60 * US_PER_S)

struct log_sink {
    char *path; /* owned; NULL: the descriptor is borrowed (standard output or error) */
    int fd;
    uint64_t lost;          /* lines dropped since the sink was opened */
    uint64_t counted;       /* of these, already given to log_count_lost() */
    uint64_t alarmed;       /* of these, already in an alarm */
    uint64_t alarm_mono_us; /* the last alarm; 0 = none yet */
    uint64_t unsaid;        /* of these, not yet reported in the log */
    bool broken_noted; /* a partial line is in the file; start the next one with a newline */
};

static void write_line(struct log_sink *sink, enum log_level level, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

static struct log_sink main_sink = {.fd = STDERR_FILENO};
static enum log_level max_level = LOG_LEVEL_INFO;
static char proc_name[32] = "drover";
static char *last_error; /* borrowed; see log_keep_last_error() */
static size_t last_error_bytes;

static const char *const level_names[] = {"error", "warn", "info", "debug"};

static const char *level_name(enum log_level level)
{
    return (size_t)level < ARRAY_LEN(level_names) ? level_names[level] : "unknown";
}

bool log_level_parse(enum log_level *out, const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(level_names); i++) {
        if (strcmp(name, level_names[i]) == 0) {
            *out = (enum log_level)i;
            return true;
        }
    }
    return false;
}

void log_set_proc(const char *name)
{
    (void)snprintf(proc_name, sizeof(proc_name), "%s", name);
}

void log_set_level(enum log_level level)
{
    max_level = level;
}

void log_keep_last_error(char *where, size_t n)
{
    last_error = where;
    last_error_bytes = n;
}

bool log_enabled(enum log_level level)
{
    return level <= max_level;
}

/* Only pipes and sockets can block us for long, and O_NONBLOCK belongs to the open file
 * description: setting it on a terminal would change the shell's own input. */
static void make_nonblocking(int fd)
{
    struct stat st;
    int flags;

    if (fstat(fd, &st) == -1 || (!S_ISFIFO(st.st_mode) && !S_ISSOCK(st.st_mode)))
        return;
    flags = fcntl(fd, F_GETFL);
    if (flags != -1)
        (void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

static int open_path(const char *path, struct error *err)
{
    /* O_NONBLOCK: a FIFO without a reader is an error, not a wait. */
    int fd =
        open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);

    if (fd == -1)
        return error_wrap(err, error_sys(err, "open"), "log file %s", path);
    make_nonblocking(fd);
    return fd;
}

/* Owns `path`; NULL: `fd` is not ours to close. */
static void replace_main_sink(char *path, int fd)
{
    if (main_sink.path != NULL)
        (void)close(main_sink.fd);
    free(main_sink.path);
    main_sink.path = path;
    main_sink.fd = fd;
}

int log_open(const char *path, struct error *err)
{
    char *copy;
    int fd;

    if (path == NULL || path[0] == '\0') {
        make_nonblocking(STDERR_FILENO);
        replace_main_sink(NULL, STDERR_FILENO);
        return 0;
    }
    copy = strdup(path);
    if (copy == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    fd = open_path(path, err);
    if (fd < 0) {
        free(copy);
        return fd;
    }
    replace_main_sink(copy, fd);
    return 0;
}

int log_reopen(struct error *err)
{
    return log_sink_reopen(&main_sink, err);
}

int log_sink_open_later(struct log_sink **out, const char *path, struct error *err)
{
    struct log_sink *sink;

    *out = NULL;
    if (path == NULL || path[0] == '\0')
        return 0;
    sink = calloc(1, sizeof(*sink));
    if (sink == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    sink->fd = -1;
    if (strcmp(path, "-") == 0) {
        sink->fd = STDOUT_FILENO;
        make_nonblocking(sink->fd);
    } else {
        sink->path = strdup(path);
        if (sink->path == NULL) {
            free(sink);
            return error_set(err, DRV_ENOMEM, "out of memory");
        }
    }
    *out = sink;
    return 0;
}

int log_sink_open(struct log_sink **out, const char *path, struct error *err)
{
    int rc = log_sink_open_later(out, path, err);

    if (rc == 0)
        rc = log_sink_reopen(*out, err);
    if (rc != 0) {
        log_sink_close(*out);
        *out = NULL;
    }
    return rc;
}

int log_sink_reopen(struct log_sink *sink, struct error *err)
{
    int fd;

    if (sink == NULL || sink->path == NULL)
        return 0;
    fd = open_path(sink->path, err);
    if (fd < 0)
        return fd;
    if (sink->fd != -1)
        (void)close(sink->fd);
    sink->fd = fd;
    sink->broken_noted = false;
    return 0;
}

void log_sink_close(struct log_sink *sink)
{
    if (sink == NULL)
        return;
    if (sink->path != NULL && sink->fd != -1)
        (void)close(sink->fd);
    free(sink->path);
    free(sink);
}

static uint64_t take_fresh(struct log_sink *sink)
{
    uint64_t fresh = sink->lost - sink->counted;

    sink->counted = sink->lost;
    return fresh;
}

/* The number of lost lines that an alarm is due for. */
static uint64_t due_alarm(struct log_sink *sink)
{
    uint64_t now = clock_mono_us(), lines = sink->lost - sink->alarmed;

    if (lines == 0 || (sink->alarm_mono_us != 0 && now - sink->alarm_mono_us < ALARM_US))
        return 0;
    sink->alarmed = sink->lost;
    sink->alarm_mono_us = now;
    return lines;
}

uint64_t log_count_lost(struct log_sink *sink)
{
    uint64_t fresh = take_fresh(&main_sink), lines;
    struct error err;

    if (sink != NULL)
        fresh += take_fresh(sink);
    if (sink != NULL && sink->fd == -1 && log_sink_reopen(sink, &err) == 0)
        log_info("event=log_opened log=%s", log_quote(sink->path));
    /* Also when nothing is new: lines lost within a minute of an alarm are not reported yet. */
    lines = due_alarm(&main_sink);
    if (lines != 0 && main_sink.fd != STDERR_FILENO) {
        struct log_sink to_stderr = {.fd = STDERR_FILENO};

        make_nonblocking(STDERR_FILENO);
        write_line(&to_stderr, LOG_LEVEL_ERROR, "event=log_lines_lost log=%s lines=%llu",
                   log_quote(main_sink.path), (unsigned long long)lines);
    }
    lines = sink == NULL ? 0 : due_alarm(sink);
    if (lines != 0)
        log_error("event=log_lines_lost log=%s lines=%llu",
                  log_quote(sink->path == NULL ? "-" : sink->path), (unsigned long long)lines);
    return fresh;
}

void log_sink_write(struct log_sink *sink, const void *bytes, size_t n)
{
    ssize_t w;

    if (sink == NULL)
        return;
    /* A full disk can take part of a line.  End that part first, so that it spoils one line
     * only. */
    if (sink->broken_noted && write(sink->fd, "\n", 1) == 1)
        sink->broken_noted = false;
    do {
        w = write(sink->fd, bytes, n);
    } while (w == -1 && errno == EINTR);
    if (w == (ssize_t)n)
        return;
    if (w > 0)
        sink->broken_noted = true;
    sink->lost++;
    sink->unsaid++;
}

static void write_args(struct log_sink *sink, enum log_level level, const char *fmt, va_list ap)
{
    char line[LINE_BYTES];
    struct timespec ts;
    struct tm tm;
    uint64_t unsaid;
    size_t used, text;
    int n;

    (void)clock_gettime(CLOCK_REALTIME, &ts);
    (void)gmtime_r(&ts.tv_sec, &tm);
    used = strftime(line, sizeof(line), "at=%Y-%m-%dT%H:%M:%S", &tm);
    n = snprintf(line + used, sizeof(line) - used, ".%03ldZ level=%s proc=%s pid=%d ",
                 ts.tv_nsec / 1000000, level_name(level), proc_name, (int)getpid());
    if (n > 0)
        used += (size_t)n;
    if (sink->unsaid != 0) {
        n = snprintf(line + used, sizeof(line) - used, "lines_lost=%llu ",
                     (unsigned long long)sink->unsaid);
        if (n > 0)
            used += (size_t)n;
    }
    text = used;
    n = vsnprintf(line + used, sizeof(line) - used - 1, fmt, ap);
    if (n < 0)
        return;
    used += (size_t)n;
    if (used > sizeof(line) - 2)
        used = sizeof(line) - 2;
    for (size_t i = 0; i < used; i++) {
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    }
    if (sink == &main_sink && level == LOG_LEVEL_ERROR && last_error != NULL) {
        line[used] = '\0';
        (void)strlcpy(last_error, line + text, last_error_bytes);
    }
    line[used++] = '\n';
    unsaid = sink->unsaid;
    log_sink_write(sink, line, used);
    if (sink->unsaid == unsaid)
        sink->unsaid = 0; /* it has been said */
}

static void write_line(struct log_sink *sink, enum log_level level, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    write_args(sink, level, fmt, ap);
    va_end(ap);
}

void log_line(enum log_level level, const char *fmt, ...)
{
    va_list ap;

    if (!log_enabled(level))
        return;
    va_start(ap, fmt);
    write_args(&main_sink, level, fmt, ap);
    va_end(ap);
}

const char *log_quote(const char *text)
{
    return text == NULL ? "\"\"" : log_quote_n(text, strlen(text));
}

const char *log_quote_n(const void *bytes, size_t n)
{
    static char ring[4][1024];
    static unsigned next;
    static const char hex[] = "0123456789abcdef";
    const unsigned char *p = bytes;
    char *out = ring[next++ % ARRAY_LEN(ring)];
    size_t used = 0;

    out[used++] = '"';
    for (size_t i = 0; i < n && i < 200; i++) {
        if (p[i] == '"' || p[i] == '\\') {
            out[used++] = '\\';
            out[used++] = (char)p[i];
        } else if (p[i] < 0x20 || p[i] >= 0x7f) {
            out[used++] = '\\';
            out[used++] = 'x';
            out[used++] = hex[p[i] >> 4];
            out[used++] = hex[p[i] & 15];
        } else {
            out[used++] = (char)p[i];
        }
    }
    out[used++] = '"';
    out[used] = '\0';
    return out;
}

static bool is_within(struct log_limit *limit, uint64_t window_us, uint32_t most,
                      uint32_t *missed)
{
    uint64_t now = clock_mono_us();

    if (limit->window_mono_us == 0 || now - limit->window_mono_us >= window_us) {
        limit->window_mono_us = now;
        limit->count = 0;
    }
    if (limit->count >= most) {
        limit->missed++;
        return false;
    }
    limit->count++;
    *missed = limit->missed;
    limit->missed = 0;
    return true;
}

bool log_limit_ok(struct log_limit *limit, uint32_t per_s, uint32_t *missed)
{
    return is_within(limit, US_PER_S, per_s, missed);
}

bool log_limit_minute(struct log_limit *limit, uint32_t *missed)
{
    return is_within(limit, 60 * US_PER_S, 1, missed);
}
