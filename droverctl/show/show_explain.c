/*
 * show_explain.c - `explain`: why a request went where it went.
 *
 * From the rings of decisions, which outlive the processes that wrote them.  Every decision
 * made for the request is shown, oldest first: there are several when it was tried again
 * elsewhere, or waited because no node had room.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "droverctl/format/emit.h"
#include "droverctl/format/text.h"
#include "droverctl/view.h"
#include "shm/facts/decisions.h"

#define EXCLUSIONS_TEXT_BYTES 64
#define SECOND_US             1e6
#define LONGEST_S             1e9 /* more reads "huge" anyway, and fits a duration */

static const enum decision_exclusion exclusions[] = {
    DECISION_EXCLUDED_FULL,    DECISION_EXCLUDED_TRIED,  DECISION_EXCLUDED_STATE,
    DECISION_EXCLUDED_LOADING, DECISION_EXCLUDED_LOST,   DECISION_EXCLUDED_WAITED_FOR,
    DECISION_EXCLUDED_HOLD,    DECISION_EXCLUDED_CONTEXT};

/* Eligible ones first, the cheapest first. */
static int cheaper_first(const void *a, const void *b)
{
    const struct decision_candidate *x = a, *y = b;

    if ((x->exclusions == 0) != (y->exclusions == 0))
        return x->exclusions == 0 ? -1 : 1;
    if (x->cost_s < y->cost_s || x->cost_s > y->cost_s)
        return x->cost_s < y->cost_s ? -1 : 1;
    return (x->node > y->node) - (x->node < y->node);
}

static bool chosen(const struct decision *d, const struct decision_candidate *c)
{
    return d->node != DECISIONS_NO_NODE && c->node == d->node;
}

/* ---- JSON ---- */

static void name_or_null(struct buf *out, const char *key, const char *name)
{
    if (name[0] != '\0')
        emit_text(out, key, name);
    else
        emit_null(out, key);
}

static void candidate_json(struct buf *out, const struct decision *d,
                           const struct decision_candidate *c)
{
    emit_object(out, NULL);
    emit_text(out, "node", c->name);
    emit_bool(out, "chosen", chosen(d, c));
    emit_bool(out, "eligible", c->exclusions == 0);
    emit_array(out, "exclusions");
    for (size_t i = 0; i < ARRAY_LEN(exclusions); i++)
        if ((c->exclusions & (uint32_t)exclusions[i]) != 0)
            emit_text(out, NULL, decision_exclusion_name(exclusions[i]));
    emit_end_array(out);
    emit_uint(out, "inflight", c->inflight);
    emit_uint(out, "slots", c->slots);
    emit_uint(out, "cap", c->cap);
    emit_uint(out, "backlog_ms", c->backlog_ms);
    emit_uint(out, "matched_tokens", c->matched_tokens);
    emit_number(out, "prefill_tokens_per_s", (double)c->prefill_per_s);
    emit_number(out, "wait_s", (double)c->wait_s);
    emit_number(out, "prefill_s", (double)c->prefill_s);
    emit_number(out, "load_s", (double)c->load_s);
    emit_number(out, "bonus_s", (double)c->bonus_s);
    emit_number(out, "cost_s", (double)c->cost_s);
    emit_end_object(out);
}

static void decision_json(struct view *view, const struct decision *d)
{
    struct buf *out = &view->out;

    emit_object(out, NULL);
    emit_uint(out, "attempt", d->attempt);
    emit_bool(out, "hedge", d->hedge != 0);
    emit_bool(out, "trial", d->trial != 0);
    emit_uint(out, "age_ms",
              view->now_mono_us > d->at_mono_us ? (view->now_mono_us - d->at_mono_us) / 1000
                                                : 0);
    emit_uint(out, "worker", d->worker);
    emit_text(out, "model", d->model);
    emit_text(out, "policy", policy_name((enum policy_kind)d->policy));
    emit_uint(out, "prompt_tokens", d->prompt_tokens);
    emit_number(out, "waited_s", d->waited_us / SECOND_US);
    name_or_null(out, "node", d->name);
    emit_uint(out, "candidates_total", d->candidates_total);
    emit_array(out, "candidates");
    for (uint32_t i = 0; i < d->candidates; i++)
        candidate_json(out, d, &d->candidate[i]);
    emit_end_array(out);
    emit_end_object(out);
}

/* ---- tables ---- */

/* Appends a line of text from inside and outside, cut to the width. */
static void add_line(struct view *view, enum tone tone, const char *text)
{
    struct buf line = BUF_INIT;

    text_escape(&line, text, view->style.utf8);
    style_add(&view->out, &view->style, tone, buf_cstr(&line),
              text_prefix(buf_cstr(&line), buf_size(&line), view->style.width));
    buf_str(&view->out, "\n");
    if (line.failed)
        view->out.failed = true;
    buf_finish(&line);
}

/* A term of the cost, which may be negative. */
static const char *text_term(char *out, float seconds)
{
    double size = seconds < 0 ? -(double)seconds : (double)seconds;
    char digits[TEXT_SHORT_BYTES];

    if (size > LONGEST_S)
        size = LONGEST_S;
    (void)text_duration(digits, (uint64_t)(size * SECOND_US + 0.5));
    (void)strlcpy(out, seconds < 0 && strcmp(digits, "-") != 0 ? "-" : "", TEXT_SHORT_BYTES);
    (void)strlcat(out, digits, TEXT_SHORT_BYTES);
    return out;
}

/* "full,lost"; "" when nothing speaks against it. */
static void exclusions_text(char *out, uint32_t set)
{
    out[0] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(exclusions); i++) {
        if ((set & (uint32_t)exclusions[i]) == 0)
            continue;
        if (out[0] != '\0')
            (void)strlcat(out, ",", EXCLUSIONS_TEXT_BYTES);
        (void)strlcat(out, decision_exclusion_name(exclusions[i]), EXCLUSIONS_TEXT_BYTES);
    }
    if (set != 0 && out[0] == '\0')
        (void)strlcpy(out, "unknown", EXCLUSIONS_TEXT_BYTES); /* from the future */
}

/* Columns that only some decisions need. */
struct extras {
    bool load, bonus, against;
};

static void candidate_row(struct view *view, struct table *table, const struct decision *d,
                          const struct decision_candidate *c, const struct extras *extras)
{
    enum tone tone = chosen(d, c) ? TONE_GOOD : c->exclusions != 0 ? TONE_DIM : TONE_PLAIN;
    char a[TEXT_SHORT_BYTES], b[TEXT_SHORT_BYTES], why[EXCLUSIONS_TEXT_BYTES];

    table_printf(table, tone, "%s", chosen(d, c) ? "*" : "");
    table_text(table, &view->style, tone, c->name);
    table_printf(table, tone, "%s/%s", text_count(a, c->inflight), text_count(b, c->slots));
    table_printf(table, tone, "%s", text_count(a, c->cap));
    table_printf(table, tone, "%s", text_duration(a, (uint64_t)c->backlog_ms * US_PER_MS));
    table_printf(table, tone, "%s", text_count(a, c->matched_tokens));
    table_printf(table, tone, "%s", text_rate(a, (double)c->prefill_per_s));
    table_printf(table, tone, "%s", text_term(a, c->wait_s));
    table_printf(table, tone, "%s", text_term(a, c->prefill_s));
    if (extras->load)
        table_printf(table, tone, "%s", text_term(a, c->load_s));
    if (extras->bonus)
        table_printf(table, tone, "%s", text_term(a, -c->bonus_s));
    table_printf(table, tone, "%s", text_term(a, c->cost_s));
    if (extras->against) {
        exclusions_text(why, c->exclusions);
        table_printf(table, tone, "%s", why);
    }
}

static void decision_table(struct view *view, const struct decision *d)
{
    static const struct column load = {"LOAD", true, 0, 0, 0}, bonus = {"BONUS", true, 0, 0, 1},
                               cost = {"COST", true, 0, 0, 0},
                               against = {"AGAINST", false, 4, 8, 0};
    struct column columns[TABLE_MAX_COLUMNS] = {
        {" ", false, 0, 0, 0},    {"NODE", false, 6, 10, 0},  {"BUSY", true, 0, 0, 0},
        {"CAP", true, 0, 0, 3},   {"BACKLOG", true, 0, 0, 0}, {"CACHED", true, 0, 0, 0},
        {"TOK/S", true, 0, 0, 2}, {"WAIT", true, 0, 0, 0},    {"PREFILL", true, 0, 0, 0}};
    unsigned n_columns = 9;
    struct extras extras = {0};
    struct table table;

    for (uint32_t i = 0; i < d->candidates; i++) {
        extras.load = extras.load || d->candidate[i].load_s != 0;
        extras.bonus = extras.bonus || d->candidate[i].bonus_s != 0;
        extras.against = extras.against || d->candidate[i].exclusions != 0;
    }
    if (extras.load)
        columns[n_columns++] = load;
    if (extras.bonus)
        columns[n_columns++] = bonus;
    columns[n_columns++] = cost;
    if (extras.against)
        columns[n_columns++] = against;
    table_init(&table, columns, n_columns);
    for (uint32_t i = 0; i < d->candidates; i++)
        candidate_row(view, &table, d, &d->candidate[i], &extras);
    table_render(&table, &view->style, &view->out);
    table_finish(&table);
}

static void decision_text(struct view *view, const struct decision *d)
{
    char text[256], a[TEXT_SHORT_BYTES], b[TEXT_SHORT_BYTES];

    (void)snprintf(
        text, sizeof(text), "attempt %llu%s, %s ago: %s", (unsigned long long)d->attempt + 1,
        d->hedge != 0   ? " (hedge)"
        : d->trial != 0 ? " (trial)"
                        : "",
        text_age(a, view->now_mono_us, d->at_mono_us),
        d->node == DECISIONS_NO_NODE ? "no node had room, the request waits" : d->name);
    add_line(view, TONE_HEAD, text);
    (void)snprintf(text, sizeof(text), "%s, prompt of %s tokens, %s%s, worker %u, model %s",
                   policy_name((enum policy_kind)d->policy), text_count(a, d->prompt_tokens),
                   d->waited_us == 0 ? "no wait" : "waited ",
                   d->waited_us == 0 ? "" : text_duration(b, d->waited_us), d->worker,
                   d->model);
    add_line(view, TONE_PLAIN, text);
    if (d->candidates == 0)
        add_line(view, TONE_PLAIN, "no node was considered");
    else
        decision_table(view, d);
    if (d->candidates_total > d->candidates) {
        (void)snprintf(text, sizeof(text), "and %u more that were not kept",
                       d->candidates_total - d->candidates);
        add_line(view, TONE_DIM, text);
    }
}

int show_explain(struct view *view, const char *id, struct error *err)
{
    struct decision_cursor cursor = {0};
    char key[REQUEST_ID_BYTES];
    struct decision d;
    unsigned n = 0;

    (void)strlcpy(key, id, sizeof(key)); /* the workers cut ids as well */
    for (; decisions_next(view->board, key, &cursor, &d); n++) {
        qsort(d.candidate, d.candidates, sizeof(d.candidate[0]), cheaper_first);
        if (view->json && n == 0) {
            emit_object(&view->out, NULL);
            emit_text(&view->out, "id", key);
            emit_array(&view->out, "decisions");
        }
        if (view->json) {
            decision_json(view, &d);
        } else {
            if (n != 0)
                buf_str(&view->out, "\n");
            decision_text(view, &d);
        }
    }
    if (n == 0)
        return error_set(err, DRV_ENOENT,
                         "nothing is known about a request \"%.64s\"; each worker remembers "
                         "its last %u decisions",
                         id, DECISIONS_PER_WORKER);
    if (view->json) {
        emit_end_array(&view->out);
        emit_end_object(&view->out);
    }
    return 0;
}
