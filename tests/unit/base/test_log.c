/* test_log.c - a log that cannot take its lines: no call blocks, the lines are counted, the
 * loss is reported once. */
#include "base/log.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"

#define LINE  "{\"a line\":\"of an access log, which is as long as any other one of these\"}\n"
#define LINES 4000 /* far more than a pipe holds */

/* In place of base/clock.c's, so that a minute passes when a test says so. */
static uint64_t now_mono_us = 1;

uint64_t clock_mono_us(void)
{
    return now_mono_us;
}

/* A sink whose reader is the returned descriptor, and does not read. */
static int open_stuck(struct log_sink **sink)
{
    struct error err = {0};
    char path[64];
    int ends[2];

    cr_assert_eq(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", ends[1]);
    cr_assert_eq(log_sink_open(sink, path, &err), 0, "%s", err.text);
    (void)close(ends[1]);
    return ends[0];
}

static void write_lines(struct log_sink *sink, unsigned n)
{
    while (n-- != 0)
        log_sink_write(sink, LINE, sizeof(LINE) - 1);
}

/* How many lines the reader gets; each must be whole. */
static unsigned read_lines(int fd)
{
    static char bytes[1 << 20];
    ssize_t n = read(fd, bytes, sizeof(bytes));
    unsigned lines = 0;

    for (ssize_t at = 0; at < n; at += (ssize_t)sizeof(LINE) - 1, lines++)
        cr_assert_eq(memcmp(bytes + at, LINE, sizeof(LINE) - 1), 0, "line %u", lines);
    return lines;
}

Test(log, a_stuck_reader_costs_lines_that_are_counted_and_nothing_else)
{
    struct log_sink *sink;
    int reader = open_stuck(&sink);
    uint64_t lost;
    unsigned kept;

    write_lines(sink, LINES);
    lost = log_count_lost(sink);
    cr_assert_gt(lost, 0);
    kept = read_lines(reader);
    cr_assert_eq(kept + lost, LINES);
    cr_assert_eq(log_count_lost(sink), 0, "each is counted once");
    write_lines(sink, 3);
    cr_assert_eq(read_lines(reader), 3, "it goes on by itself");
    cr_assert_eq(log_count_lost(sink), 0);
    log_sink_close(sink);
    (void)close(reader);
}

Test(log, the_loss_is_reported_once_a_minute_and_not_once_a_line)
{
    char path[] = "/tmp/drover-log-XXXXXX", text[65536];
    struct log_sink *sink;
    struct error err = {0};
    int file = mkstemp(path), reader = open_stuck(&sink);
    const char *alarm;
    ssize_t n;

    cr_assert_eq(log_open(path, &err), 0, "%s", err.text);
    for (int i = 0; i < 5; i++) {
        write_lines(sink, LINES);
        cr_assert_gt(log_count_lost(sink), 0);
    }
    n = read(file, text, sizeof(text) - 1);
    cr_assert_gt(n, 0);
    text[n] = '\0';
    alarm = strstr(text, "event=log_lines_lost log=\"/proc/self/fd/");
    cr_assert_not_null(alarm, "%s", text);
    cr_assert_null(strstr(alarm + 1, "event=log_lines_lost"), "%s", text);
    log_sink_close(sink);
    (void)close(reader);
    (void)close(file);
    (void)unlink(path);
}

Test(log, losses_after_an_alarm_are_reported_though_nothing_more_is_lost)
{
    char path[] = "/tmp/drover-log-XXXXXX", text[65536];
    struct log_sink *sink;
    struct error err = {0};
    int file = mkstemp(path), reader = open_stuck(&sink);
    uint64_t lost;
    char expected[64];
    ssize_t n;

    cr_assert_eq(log_open(path, &err), 0, "%s", err.text);
    write_lines(sink, LINES);
    cr_assert_gt(log_count_lost(sink), 0, "the first alarm");
    write_lines(sink, LINES);
    lost = log_count_lost(sink);
    cr_assert_eq(lost, LINES);
    now_mono_us += 61 * US_PER_S;
    cr_assert_eq(log_count_lost(sink), 0);
    n = read(file, text, sizeof(text) - 1);
    cr_assert_gt(n, 0);
    text[n] = '\0';
    (void)snprintf(expected, sizeof(expected), " lines=%llu\n", (unsigned long long)lost);
    cr_assert_not_null(strstr(text, expected), "%s", text);
    log_sink_close(sink);
    (void)close(reader);
    (void)close(file);
    (void)unlink(path);
}

Test(log, without_a_path_the_log_goes_back_to_standard_error)
{
    char path[] = "/tmp/drover-log-XXXXXX";
    struct error err = {0};
    int file = mkstemp(path);
    struct stat st;
    off_t before;

    cr_assert_eq(log_open(path, &err), 0, "%s", err.text);
    log_error("event=first");
    cr_assert_eq(fstat(file, &st), 0);
    before = st.st_size;
    cr_assert_gt(before, 0);
    cr_assert_eq(log_open(NULL, &err), 0, "%s", err.text);
    log_error("event=second");
    cr_assert_eq(fstat(file, &st), 0);
    cr_assert_eq(st.st_size, before, "it is still written to the file");
    (void)close(file);
    (void)unlink(path);
}

Test(log, a_fifo_without_a_reader_is_an_error_and_not_a_wait)
{
    char path[64];
    struct log_sink *sink;
    struct error err = {0};

    (void)snprintf(path, sizeof(path), "/tmp/drover-fifo-%d", (int)getpid());
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_assert_eq(log_sink_open(&sink, path, &err), DRV_ESYS);
    cr_assert_not_null(strstr(err.text, path), "%s", err.text);
    cr_assert_null(sink);
    (void)unlink(path);
}
