/*
 * text.h - text for people: what comes from outside made harmless, and numbers made short.
 *
 * Names and ids in the scoreboard were chosen by nodes and clients; nothing of theirs may reach
 * the terminal as a control sequence.
 */
#ifndef DROVER_DROVERCTL_FORMAT_TEXT_H
#define DROVER_DROVERCTL_FORMAT_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;

/*
 * Appends `text` with everything that could act on a terminal as \xNN: control bytes, invalid
 * UTF-8, invisible and direction-changing characters.  Without `utf8`, everything that is not
 * ASCII.  A backslash stays one.
 */
void text_escape(struct buf *out, const char *text, bool utf8);

/* Columns that escaped text takes, and the bytes of its longest beginning that takes at most
 * `columns`. */
size_t text_columns(const char *escaped, size_t n);
size_t text_prefix(const char *escaped, size_t n, size_t columns);

/* All of these fill `out`, which has room for TEXT_SHORT_BYTES, and return it. */
#define TEXT_SHORT_BYTES 24

/* A duration, rounded down: "-" for 0, else "0.25ms", "25.0ms", "250ms", "3.2s", "4m10s",
 * "3h12m", "5d4h". */
const char *text_duration(char *out, uint64_t us);
/* The same for an age: since `then`, on the same clock; "-" when `then` is 0. */
const char *text_age(char *out, uint64_t now_mono_us, uint64_t then_mono_us);
/* A count of at most five characters: "9999", "12.3k", "4.56M", "123G", "huge". */
const char *text_count(char *out, uint64_t count);
/* A rate: as text_count, with one digit after the point when small; 0 for what is none. */
const char *text_rate(char *out, double per_s);

#endif
