/* show_processes.c - `status` and `workers`. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "droverctl/format/emit.h"
#include "droverctl/format/text.h"
#include "droverctl/processes.h"
#include "droverctl/view.h"
#include "shm/facts/requests.h"
#include "shm/scoreboard.h"
#include "shm/share/gauges.h"

#define LOOK_AT_MAX 10u /* nodes that `status` names */

static const char *health_name(enum process_health health)
{
    switch (health) {
    case PROCESS_ABSENT:
        return "absent";
    case PROCESS_WELL:
        return "well";
    case PROCESS_STALLED:
        return "stalled";
    case PROCESS_DEAD:
        return "dead";
    }
    return "unknown";
}

static enum tone health_tone(enum process_health health)
{
    return health == PROCESS_WELL ? TONE_GOOD : TONE_BAD;
}

/* ---- workers ---- */

static void worker_json(struct view *view, unsigned process, const struct proc_view *proc,
                        enum process_health health)
{
    struct buf *out = &view->out;
    uint64_t beat = proc->heartbeat_mono_us;

    emit_object(out, NULL);
    emit_uint(out, "process", process);
    emit_text(out, "kind", view_proc_kind(view->board, process));
    emit_uint(out, "pid", (uint64_t)proc->pid);
    emit_text(out, "state", proc_state_name(proc->state));
    emit_text(out, "health", health_name(health));
    emit_bool(out, "stalled", health == PROCESS_STALLED);
    emit_uint(out, "generation", proc->generation);
    emit_uint(out, "heartbeat_age_ms",
              view->now_mono_us > beat ? (view->now_mono_us - beat) / 1000 : 0);
    emit_uint(out, "age_ms",
              view->now_mono_us > proc->started_mono_us
                  ? (view->now_mono_us - proc->started_mono_us) / 1000
                  : 0);
    emit_uint(out, "connections_total", proc->counter[PROC_CONNECTIONS_TOTAL]);
    emit_uint(out, "connections_open", proc->counter[PROC_CONNECTIONS_OPEN]);
    emit_uint(out, "requests_total", proc->counter[PROC_REQUESTS_TOTAL]);
    emit_uint(out, "requests_rejected", proc->counter[PROC_REQUESTS_REJECTED]);
    emit_uint(out, "uploads_refused", proc->counter[PROC_UPLOADS_REFUSED]);
    emit_uint(out, "connections_gave_way", proc->counter[PROC_CONNECTIONS_GAVE_WAY]);
    emit_uint(out, "requests_open", requests_count(view->board, process, NULL));
    emit_uint(out, "log_lines_lost", proc->counter[PROC_LOG_LOST]);
    emit_uint(out, "restarts", proc->restarts);
    emit_end_object(out);
}

static void worker_row(struct view *view, struct table *table, unsigned process,
                       const struct proc_view *proc, enum process_health health)
{
    char name[VIEW_PROC_NAME_BYTES], a[TEXT_SHORT_BYTES];
    bool worker = process < scoreboard_max_workers(view->board);

    view_proc_name(name, view->board, process);
    table_printf(table, TONE_PLAIN, "%s", name);
    table_printf(table, TONE_PLAIN, "%d", (int)proc->pid);
    if (health == PROCESS_WELL)
        table_printf(table, proc->state == PROC_RUNNING ? TONE_GOOD : TONE_WARN, "%s",
                     proc_state_name(proc->state));
    else
        table_printf(table, TONE_BAD, "%s", health_name(health));
    table_printf(table, health_tone(health), "%s",
                 text_age(a, view->now_mono_us, proc->heartbeat_mono_us));
    table_printf(table, TONE_PLAIN, "%s",
                 text_age(a, view->now_mono_us, proc->started_mono_us));
    table_printf(table, TONE_PLAIN, "%" PRIu32, proc->generation);
    if (worker) {
        table_printf(table, TONE_PLAIN, "%s",
                     text_count(a, proc->counter[PROC_CONNECTIONS_OPEN]));
        table_printf(table, TONE_PLAIN, "%s",
                     text_count(a, requests_count(view->board, process, NULL)));
        table_printf(table, TONE_PLAIN, "%s",
                     text_count(a, proc->counter[PROC_REQUESTS_TOTAL]));
        table_printf(table, TONE_PLAIN, "%s",
                     text_count(a, proc->counter[PROC_REQUESTS_REJECTED]));
    } else {
        for (int i = 0; i < 4; i++)
            table_printf(table, TONE_DIM, "-");
    }
    table_printf(table, TONE_PLAIN, "%s", text_count(a, proc->restarts));
}

void show_workers(struct view *view)
{
    static const struct column columns[] = {
        {"PROCESS", false, 0, 0, 0}, {"PID", true, 0, 0, 0},    {"STATE", false, 0, 0, 0},
        {"BEAT", true, 0, 0, 0},     {"AGE", true, 0, 0, 2},    {"GEN", true, 0, 0, 4},
        {"CONNS", true, 0, 0, 3},    {"OPEN", true, 0, 0, 0},   {"REQS", true, 0, 0, 0},
        {"REFUSED", true, 0, 0, 5},  {"CRASHES", true, 0, 0, 1}};
    struct table table;

    table_init(&table, columns, ARRAY_LEN(columns));
    if (view->json) {
        emit_object(&view->out, NULL);
        emit_array(&view->out, "workers");
    }
    for (unsigned process = 0; process < procs_rows(view->board); process++) {
        struct proc_view proc;
        enum process_health health;

        if (!procs_read(view->board, process, &proc) || proc.state == PROC_FREE)
            continue;
        health = processes_judge(&proc, process == procs_master_index(view->board),
                                 processes_pid_exists(proc.pid), view->now_mono_us);
        if (view->json)
            worker_json(view, process, &proc, health);
        else
            worker_row(view, &table, process, &proc, health);
    }
    if (view->json) {
        emit_end_array(&view->out);
        emit_end_object(&view->out);
    } else {
        table_render(&table, &view->style, &view->out);
    }
    table_finish(&table);
}

/* ---- status ---- */

struct totals {
    unsigned nodes[NODE_GONE + 1]; /* by state */
    uint64_t slots, inflight, charged_us;
    double requests_per_s, tokens_per_s;
    uint64_t phases[REQUEST_FLUSH + 1];
    uint64_t open;
};

static void add_up(const struct scoreboard *board, struct totals *t)
{
    *t = (struct totals){0};
    for (unsigned node = 0; node < scoreboard_max_nodes(board); node++) {
        struct node_status status;
        struct gauge gauge;

        if (!nodes_status(board, node, &status))
            continue;
        gauge = gauges_sum(board, node, status.generation);
        t->nodes[status.state]++;
        t->inflight += gauge.inflight;
        t->charged_us += gauge.charged_us;
        if (status.state == NODE_UP || status.state == NODE_PROBATION)
            t->slots += status.slots_now;
        t->requests_per_s += (double)status.requests_per_s;
        t->tokens_per_s += (double)status.tokens_per_s;
    }
    for (unsigned w = 0; w < scoreboard_max_workers(board); w++) {
        struct request_view request;
        uint32_t high;

        t->open += requests_count(board, w, &high);
        for (uint32_t row = 0; row < high; row++)
            if (requests_read(board, w, row, &request))
                t->phases[request.phase]++;
    }
}

static void warnings_json(struct buf *out, const struct processes *p)
{
    struct buf lines = BUF_INIT;

    processes_warn(&lines, p);
    for (const char *line = buf_cstr(&lines), *end; (end = strchr(line, '\n')) != NULL;
         line = end + 1) {
        char text[256];

        (void)snprintf(text, sizeof(text), "%.*s", (int)(end - line), line);
        emit_text(out, NULL, text);
    }
    buf_finish(&lines);
}

/* Is there anything to say about the node beyond that it is UP? */
static bool remarkable(const struct node_status *status)
{
    return status->state != NODE_GONE &&
           (status->state != NODE_UP || status->reason != NODE_REASON_PROBES_PASS);
}

/* Calls `show` for the first `limit` nodes that are remarkable; how many there are in all. */
static unsigned each_remarkable(struct view *view, unsigned limit,
                                void (*show)(struct view *view, const struct node_info *info,
                                             const struct node_status *status))
{
    unsigned count = 0;

    for (unsigned node = 0; node < scoreboard_max_nodes(view->board); node++) {
        struct node_status status;
        struct node_info info;

        if (!nodes_status(view->board, node, &status) || !remarkable(&status) ||
            !nodes_read(view->board, node, &info))
            continue;
        if (count++ < limit)
            show(view, &info, &status);
    }
    return count;
}

static void remarkable_json(struct view *view, const struct node_info *info,
                            const struct node_status *status)
{
    struct buf *out = &view->out;
    uint64_t age_us = view->now_mono_us > status->since_mono_us
                          ? view->now_mono_us - status->since_mono_us
                          : 0;

    emit_object(out, NULL);
    emit_text(out, "name", info->name);
    emit_text(out, "state", node_state_name(status->state));
    emit_text(out, "reason", node_reason_name(status->reason));
    emit_uint(out, "state_age_ms", age_us / 1000);
    emit_end_object(out);
}

static void status_json(struct view *view, const struct processes *p, const struct totals *t)
{
    struct buf *out = &view->out;

    emit_object(out, NULL);
    emit_text(out, "version", DROVER_VERSION);
    emit_object(out, "master");
    emit_uint(out, "pid", (uint64_t)p->master_pid);
    emit_text(out, "health", health_name(p->master));
    if (p->master_started_mono_us != 0 && view->now_mono_us > p->master_started_mono_us)
        emit_uint(out, "age_ms", (view->now_mono_us - p->master_started_mono_us) / 1000);
    emit_end_object(out);
    emit_object(out, "health");
    emit_uint(out, "pid", (uint64_t)p->health_pid);
    emit_text(out, "health", health_name(p->health));
    emit_end_object(out);
    emit_uint(out, "config_generation", p->generation);
    emit_object(out, "workers");
    emit_uint(out, "wanted", p->wanted);
    emit_uint(out, "running", p->well);
    emit_uint(out, "starting", p->starting);
    emit_uint(out, "draining", p->draining);
    emit_uint(out, "stalled", p->stalled);
    emit_uint(out, "dead", p->dead);
    emit_end_object(out);
    emit_object(out, "nodes");
    for (unsigned s = NODE_JOINING; s <= NODE_GONE; s++)
        emit_uint(out, node_state_name((enum node_state)s), t->nodes[s]);
    emit_end_object(out);
    emit_array(out, "look_at");
    (void)each_remarkable(view, UINT_MAX, remarkable_json);
    emit_end_array(out);
    emit_uint(out, "slots", t->slots);
    emit_uint(out, "inflight", t->inflight);
    emit_uint(out, "backlog_ms", t->charged_us / US_PER_MS);
    emit_number(out, "requests_per_s", t->requests_per_s);
    emit_number(out, "tokens_per_s", t->tokens_per_s);
    emit_object(out, "requests");
    emit_uint(out, "open", t->open);
    for (unsigned phase = REQUEST_QUEUED; phase <= REQUEST_FLUSH; phase++)
        emit_uint(out, request_phase_name((enum request_phase)phase), t->phases[phase]);
    emit_end_object(out);
    emit_array(out, "warnings");
    warnings_json(out, p);
    emit_end_array(out);
    emit_end_object(out);
}

static void add_label(struct view *view, const char *label)
{
    char text[16];
    int n = snprintf(text, sizeof(text), "%-10s", label);

    style_add(&view->out, &view->style, TONE_HEAD, text, (size_t)n);
}

/* ", 3 of a kind" unless there are none. */
static void add_part(struct view *view, const char **between, uint64_t n, const char *what)
{
    char text[TEXT_SHORT_BYTES];

    if (n == 0)
        return;
    buf_printf(&view->out, "%s%s %s", *between, text_count(text, n), what);
    *between = ", ";
}

static void status_process(struct view *view, const char *label, enum process_health health,
                           pid_t pid)
{
    add_label(view, label);
    if (health == PROCESS_ABSENT) {
        buf_str(&view->out, "not running\n");
        return;
    }
    buf_printf(&view->out, "pid %d, ", (int)pid);
    style_add(&view->out, &view->style, health_tone(health),
              health == PROCESS_WELL ? "running" : health_name(health),
              strlen(health == PROCESS_WELL ? "running" : health_name(health)));
    buf_str(&view->out, "\n");
}

static void remarkable_line(struct view *view, const struct node_info *info,
                            const struct node_status *status)
{
    const char *state = node_state_name(status->state);
    struct buf name = BUF_INIT;
    char age[TEXT_SHORT_BYTES], rest[64];
    int n = snprintf(rest, sizeof(rest), " (%s) for %s", node_reason_name(status->reason),
                     text_age(age, view->now_mono_us, status->since_mono_us));
    size_t taken = 11 + strlen(state) + (size_t)n; /* label, a space, and these */
    size_t room = view->style.width > taken ? view->style.width - taken : 0;

    text_escape(&name, info->name, view->style.utf8);
    add_label(view, "look at");
    buf_add(&view->out, buf_head(&name),
            text_prefix((const char *)buf_head(&name), buf_size(&name), room));
    buf_str(&view->out, " ");
    style_add(&view->out, &view->style, view_state_tone(status->state), state, strlen(state));
    buf_printf(&view->out, "%s\n", rest);
    buf_finish(&name);
}

static void status_text(struct view *view, const struct processes *p, const struct totals *t)
{
    struct buf *out = &view->out;
    char a[TEXT_SHORT_BYTES], b[TEXT_SHORT_BYTES];
    const char *between = "";
    unsigned known = 0, shown;

    buf_printf(out, "Llama Drover %s", DROVER_VERSION);
    if (p->master_started_mono_us != 0 && p->master != PROCESS_DEAD)
        buf_printf(out, ", up for %s",
                   text_age(a, view->now_mono_us, p->master_started_mono_us));
    buf_printf(out, ", config generation %" PRIu32 "\n", p->generation);
    if (p->master != PROCESS_ABSENT)
        status_process(view, "master", p->master, p->master_pid);
    status_process(view, "health", p->health, p->health_pid);

    add_label(view, "workers");
    add_part(view, &between, p->well, "running");
    add_part(view, &between, p->starting, "starting");
    add_part(view, &between, p->draining, "draining");
    add_part(view, &between, p->stalled, "stalled");
    add_part(view, &between, p->dead, "dead");
    buf_printf(out, "%s (%" PRIu32 " wanted)\n", p->workers == 0 ? "none" : "", p->wanted);

    add_label(view, "nodes");
    between = "";
    for (unsigned s = NODE_JOINING; s <= NODE_GONE; s++) {
        add_part(view, &between, t->nodes[s], node_state_name((enum node_state)s));
        known += t->nodes[s];
    }
    buf_str(out, known == 0 ? "none\n" : "\n");
    shown = each_remarkable(view, LOOK_AT_MAX, remarkable_line);
    if (shown > LOOK_AT_MAX) {
        add_label(view, "look at");
        buf_printf(out, "%s more: droverctl nodes\n", text_count(a, shown - LOOK_AT_MAX));
    }

    add_label(view, "load");
    buf_printf(out, "%s in flight on %s slots", text_count(a, t->inflight),
               text_count(b, t->slots));
    buf_printf(out, ", %s of prefill before them\n", text_duration(a, t->charged_us));
    add_label(view, "rate");
    buf_printf(out, "%s requests/s, ", text_rate(a, t->requests_per_s));
    buf_printf(out, "%s tokens/s over the last minute\n", text_rate(a, t->tokens_per_s));

    add_label(view, "requests");
    between = t->open == 0 ? "" : ": ";
    buf_printf(out, "%s open", text_count(a, t->open));
    for (unsigned phase = REQUEST_QUEUED; phase <= REQUEST_FLUSH; phase++)
        add_part(view, &between, t->phases[phase],
                 request_phase_name((enum request_phase)phase));
    buf_str(out, "\n");
}

void show_status(struct view *view)
{
    struct processes processes;
    struct totals totals;

    processes_survey(&processes, view->board, view->now_mono_us);
    add_up(view->board, &totals);
    if (view->json)
        status_json(view, &processes, &totals);
    else
        status_text(view, &processes, &totals);
}
