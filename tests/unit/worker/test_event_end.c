/* test_event_end.c - where a stream may be interrupted, however its bytes are cut. */
#include <criterion/criterion.h>
#include <string.h>

#include "worker/api/event_end.h"

/* The stream ends between two events, or not, in one piece and byte by byte. */
static void expect(const char *stream, bool lines, bool between)
{
    struct event_end whole = {0}, pieces = {0};

    event_end_note(&whole, stream, strlen(stream));
    for (const char *at = stream; *at != '\0'; at++)
        event_end_note(&pieces, at, 1);
    cr_assert_eq(event_end_is_here(&whole, lines), between, "whole: %s", stream);
    cr_assert_eq(event_end_is_here(&pieces, lines), between, "in pieces: %s", stream);
}

Test(event_end, an_empty_line_ends_an_event)
{
    static const char *const ended[] = {"", "data: x\n\n", "data: x\r\n\r\n", "data: x\r\r",
                                        "data: x\n\r\n", "data: x\r\n\n", "data: x\n\r",
                                        "data: x\r\r\n", "\n", "\r\n",
                                        /* half of the last \r\n: its \n would be a line */
                                        "data: x\r\n\r"};
    static const char *const torn[] = {"data: x",
                                       "data: x\n",
                                       "data: x\r\n",
                                       "d\r\n",
                                       "data: x\r",
                                       "data: x\n\ny",
                                       "data: x\r\n\r\ny",
                                       "data: \n\nx\n",
                                       "data: \r\n\r\nx\r\n"};

    for (size_t i = 0; i < sizeof(ended) / sizeof(*ended); i++)
        expect(ended[i], false, true);
    for (size_t i = 0; i < sizeof(torn) / sizeof(*torn); i++)
        expect(torn[i], false, false);
}

Test(event_end, ndjson_ends_at_each_newline)
{
    expect("", true, true);
    expect("{}\n", true, true);
    expect("{}\r\n", true, true);
    expect("{}", true, false);
    expect("{}\r", true, false);
    expect("{}\n{", true, false);
}
