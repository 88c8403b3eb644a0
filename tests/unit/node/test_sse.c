/* test_sse.c - cutting bodies into events, whatever the cuts of the network. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/attrs.h"
#include "base/error.h"
#include "node/stream/sse.h"

/* Feeds `text` in pieces of `step` bytes and writes what comes out as "name|data;" (comments as
 * "#;", silent ones as "-;"), raw bytes appended to `raw`. */
static void run(enum sse_mode mode, const char *text, size_t step, char *out, size_t cap,
                struct buf *raw)
{
    struct sse_event event;
    size_t n = strlen(text);
    struct sse sse;
    struct buf seen = BUF_INIT;
    int rc;

    sse_init(&sse, mode);
    for (size_t at = 0; at < n; at += step) {
        cr_assert_eq(sse_feed(&sse, text + at, n - at < step ? n - at : step), 0);
        while ((rc = sse_next(&sse, &event)) == 1) {
            if (event.silent)
                buf_str(&seen, "-;");
            else if (event.comment)
                buf_str(&seen, "#;");
            else
                buf_printf(&seen, "%.*s|%.*s;", (int)event.name_len, event.name,
                           (int)event.data_len, event.data);
            if (raw != NULL)
                buf_add(raw, event.raw, event.raw_len);
        }
        cr_assert_eq(rc, 0);
    }
    rc = sse_end(&sse, &event);
    if (rc == 1)
        buf_printf(&seen, "cut|%.*s;", (int)event.data_len, event.data);
    cr_assert_geq(rc, 0);
    cr_assert_lt(buf_size(&seen), cap);
    (void)strlcpy(out, buf_cstr(&seen), cap);
    buf_finish(&seen);
    sse_finish(&sse);
}

/* The same events, cut at every possible width. */
static void expect(enum sse_mode mode, const char *text, const char *wanted)
{
    char out[512];

    for (size_t step = 1; step <= strlen(text); step++) {
        run(mode, text, step, out, sizeof(out), NULL);
        cr_assert_str_eq(out, wanted, "in steps of %zu: %s", step, out);
    }
}

Test(sse, line_feeds_end_lines_and_an_empty_line_ends_the_event)
{
    expect(SSE_EVENTS, "data: a\n\ndata: b\n\n", "|a;|b;");
}

Test(sse, carriage_returns_with_and_without_line_feeds_end_lines_too)
{
    expect(SSE_EVENTS, "data: a\r\n\r\nevent: x\r\ndata: b\r\n\r\n", "|a;x|b;");
    expect(SSE_EVENTS, "data: a\r\rdata: b\r\r", "|a;|b;");
    expect(SSE_EVENTS, "data: a\r\n\ndata: b\n\r\n", "|a;|b;");
}

Test(sse, a_line_of_any_length_ends_where_its_end_is)
{
    static const char *const ends[] = {"\n", "\r", "\r\n"};
    char text[1200], wanted[1200], out[1200];
    char line[600];

    for (size_t n = 240; n < 530; n++) {
        memset(line, 'x', n);
        line[n] = '\0';
        for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
            (void)snprintf(text, sizeof(text), "data: %s%s%sdata: y%s%s", line, ends[i],
                           ends[i], ends[i], ends[i]);
            (void)snprintf(wanted, sizeof(wanted), "|%s;|y;", line);
            run(SSE_EVENTS, text, strlen(text), out, sizeof(out), NULL);
            cr_assert_str_eq(out, wanted, "%zu bytes, end %zu", n, i);
        }
    }
}

Test(sse, a_byte_order_mark_at_the_start_is_dropped)
{
    struct buf raw = BUF_INIT;
    char out[64];

    expect(SSE_EVENTS,
           "\xef\xbb\xbf"
           "data: a\n\n",
           "|a;");
    run(SSE_EVENTS,
        "\xef\xbb\xbf"
        "data: a\n\n",
        2, out, sizeof(out), &raw);
    cr_assert_str_eq(buf_cstr(&raw), "data: a\n\n");
    buf_finish(&raw);
}

Test(sse, comments_are_detected_and_blank_lines_between_events_are_nothing)
{
    expect(SSE_EVENTS, ":\n\n: ping\n\n\n\ndata: a\n\n", "#;#;|a;");
}

Test(sse, a_comment_inside_an_event_does_not_make_it_one)
{
    expect(SSE_EVENTS, ": note\ndata: a\n\n", "|a;");
}

Test(sse, fields_without_data_are_no_event)
{
    expect(SSE_EVENTS, "event: ping\n\ndata: a\n\n", "-;|a;");
    expect(SSE_EVENTS, "retry: 3000\n\nid: 7\n\n: c\n\n", "-;-;#;");
    expect(SSE_EVENTS, ": c\nevent: x\n\ndata:\n\ndata: \r\n\r\n", "-;-;-;");
    expect(SSE_EVENTS, "event: x\nid: 1\ndata: a\n\n", "x|a;");
    expect(SSE_EVENTS, "data:\ndata:\n\n", "|\n;"); /* a line feed is something */
}

Test(sse, several_data_lines_are_joined)
{
    expect(SSE_EVENTS, "data: a\ndata:b\ndata:  c\n\n", "|a\nb\n c;");
}

Test(sse, an_error_field_is_an_event_of_that_name)
{
    expect(SSE_EVENTS, "error: {\"code\":500}\n\n", "error|{\"code\":500};");
}

Test(sse, a_rest_at_the_end_is_marked_as_cut)
{
    expect(SSE_EVENTS, "data: a\n\ndata: b", "|a;cut|b;");
    expect(SSE_EVENTS, "data: a\n\ndata: b\n", "|a;cut|b;");
}

Test(sse, ndjson_lines_are_events_even_without_the_last_newline)
{
    expect(SSE_LINES, "{\"a\":1}\n\n{\"b\":2}\r\n{\"c\":3}",
           "|{\"a\":1};|{\"b\":2};cut|{\"c\":3};");
}

Test(sse, the_raw_bytes_of_all_lines_are_the_body_wherever_it_is_cut)
{
    static const char text[] = "{\"a\":1}\r\n{\"b\":\r2}\r\n";
    char out[64];

    for (size_t step = 1; step < sizeof(text); step++) {
        struct buf raw = BUF_INIT;

        run(SSE_LINES, text, step, out, sizeof(out), &raw);
        cr_assert_str_eq(buf_cstr(&raw), text, "in steps of %zu", step);
        buf_finish(&raw);
    }
}

Test(sse, the_raw_bytes_of_all_events_are_the_body)
{
    static const char text[] = "event: a\r\ndata: 1\r\n\r\n: c\r\n\r\ndata: 2\r\n\r\n";
    char out[64];

    for (size_t step = 1; step < sizeof(text); step++) {
        struct buf raw = BUF_INIT;

        run(SSE_EVENTS, text, step, out, sizeof(out), &raw);
        cr_assert_str_eq(buf_cstr(&raw), text, "in steps of %zu", step);
        buf_finish(&raw);
    }
}

Test(sse, an_event_without_an_end_is_refused_at_the_limit)
{
    static char filler[64 * 1024];
    struct sse_event event;
    struct sse sse;
    size_t fed = 0;
    int rc = 0;

    memset(filler, 'x', sizeof(filler));
    sse_init(&sse, SSE_EVENTS);
    while (rc == 0 && fed <= SSE_MAX_EVENT_BYTES) {
        cr_assert_eq(sse_feed(&sse, filler, sizeof(filler)), 0);
        fed += sizeof(filler);
        rc = sse_next(&sse, &event);
    }
    cr_assert_eq(rc, DRV_ETOOBIG);
    cr_assert_eq(fed, SSE_MAX_EVENT_BYTES + sizeof(filler));
    sse_finish(&sse);
}
