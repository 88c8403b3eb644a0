/*
 * test_views.c - every view of scoreboards that are empty, ordinary, extreme and damaged: at
 * most 80 columns, printable bytes only, JSON that is JSON, and the truth about processes.
 */
#include "droverctl/view.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/text/json.h"
#include "droverctl/format/text.h"
#include "droverctl/guard.h"
#include "droverctl/processes.h"
#include "shm/aliases.h"
#include "shm/facts/decisions.h"
#include "shm/facts/procs.h"
#include "shm/facts/requests.h"
#include "shm/facts/stats.h"
#include "shm/queue/plans.h"
#include "shm/reap.h"
#include "shm/scoreboard.h"
#include "shm/share/gauges.h"

static char dir[64], path[96];

static struct scoreboard *make_board(void)
{
    const struct scoreboard_params params = {8, 4, 16, 64, 0};
    struct scoreboard *board;

    (void)snprintf(dir, sizeof(dir), "/tmp/drover-views-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/scoreboard", dir);
    cr_assert_eq(scoreboard_create(&board, path, &params, NULL), 0);
    return board;
}

static void drop_board(struct scoreboard *board)
{
    scoreboard_detach(board);
    (void)unlink(path);
    (void)rmdir(dir);
}

/* Runs view number `which`; false when there is no such. */
static bool run_view(struct view *view, unsigned which, const char *node, int *rc)
{
    static const char *const histograms[] = {"ttft", "tpot", "e2e", "connect"};

    *rc = 0;
    switch (which) {
    case 0:
        show_status(view);
        return true;
    case 1:
        show_nodes(view);
        return true;
    case 2:
        show_workers(view);
        return true;
    case 3:
        show_requests(view);
        return true;
    case 4:
        show_models(view);
        return true;
    case 5:
        *rc = show_node(view, node, NULL);
        return true;
    case 6:
    case 7:
    case 8:
    case 9:
        *rc = show_histogram(view, node, histograms[which - 6], NULL);
        return true;
    case 10:
        *rc = show_explain(view, node, NULL); /* a request that is called like the node */
        return true;
    default:
        return false;
    }
}

static void check_text(const char *text, unsigned which)
{
    for (const char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        size_t n = (size_t)(end - line);

        cr_assert_leq(text_columns(line, n), 80, "view %u: %.*s", which, (int)n, line);
        for (size_t i = 0; i < n; i++)
            cr_assert((unsigned char)line[i] >= 0x20 && line[i] != 0x7f);
    }
    cr_assert(text[0] == '\0' || text[strlen(text) - 1] == '\n');
}

static void check_all_views(const struct scoreboard *board, const char *node, bool must_work)
{
    for (int form = 0; form < 3; form++) {
        struct view view = {.board = board,
                            .now_mono_us = clock_mono_us(),
                            .json = form == 2,
                            .style = {.width = 80, .utf8 = form == 1}};
        int rc;

        for (unsigned which = 0; run_view(&view, which, node, &rc); which++) {
            struct json_value root;
            struct error err = {0};

            cr_assert(rc == 0 || !must_work);
            if (rc == 0 && view.json)
                cr_assert_eq(json_check(&root, buf_head(&view.out), buf_size(&view.out), &err),
                             0, "view %u: %s", which, err.text);
            else if (rc == 0)
                check_text(buf_cstr(&view.out), which);
            cr_assert_not(view.out.failed);
            buf_reset(&view.out);
        }
        buf_finish(&view.out);
    }
}

static void add_node(struct scoreboard *board, const char *name, unsigned models)
{
    struct node_info info = {.slots = 4, .models_count = models, .weight = 100};
    int node = nodes_claim(board, clock_mono_us());

    cr_assert_geq(node, 0);
    (void)strlcpy(info.name, name, sizeof(info.name));
    (void)strlcpy(info.address, "10.0.0.5:7070", sizeof(info.address));
    for (unsigned m = 0; m < models; m++) {
        (void)snprintf(info.models[m].id, sizeof(info.models[m].id), "model-%u", m);
        info.models[m].operations = 0x7ffe;
        info.models[m].alias_of = m == 2 ? 1 : 0;
    }
    nodes_publish(board, (unsigned)node, &info);
    nodes_set_state(board, (unsigned)node, NODE_UP, NODE_REASON_PROBES_PASS, clock_mono_us());
}

/* Decisions with the greatest and the smallest of everything. */
static void decide_wildly(struct scoreboard *board, const char *id)
{
    static const float seconds[] = {0, -1e30f, 1e30f, 1e-30f, -1e-9f, 59.99f};
    struct decision d = {.at_mono_us = 1,
                         .attempt = UINT32_MAX,
                         .policy = UINT32_MAX,
                         .prompt_tokens = UINT32_MAX,
                         .waited_us = UINT32_MAX,
                         .candidates_total = UINT32_MAX,
                         .candidates = DECISIONS_CANDIDATES};

    (void)strlcpy(d.id, id, sizeof(d.id));
    memset(d.model, '\x1b', sizeof(d.model) - 1);
    memset(d.name, '\xff', sizeof(d.name) - 1);
    for (unsigned i = 0; i < DECISIONS_CANDIDATES; i++) {
        float s = seconds[i % ARRAY_LEN(seconds)];

        d.candidate[i] = (struct decision_candidate){.node = i % 8,
                                                     .inflight = UINT32_MAX,
                                                     .slots = UINT32_MAX,
                                                     .cap = UINT32_MAX,
                                                     .backlog_ms = UINT32_MAX,
                                                     .matched_tokens = UINT32_MAX,
                                                     .prefill_per_s = s,
                                                     .wait_s = s,
                                                     .prefill_s = s,
                                                     .load_s = s,
                                                     .bonus_s = s,
                                                     .cost_s = s,
                                                     .exclusions = i % 2 == 0 ? UINT32_MAX : 0};
        memset(d.candidate[i].name, (int)('a' + i), sizeof(d.candidate[i].name) - 1);
    }
    decisions_add(board, 3, &d);
    d.candidates = 0;
    decisions_add(board, 2, &d);
}

Test(views, an_empty_scoreboard_can_be_shown)
{
    struct scoreboard *board = make_board();

    check_all_views(board, "none", false);
    drop_board(board);
}

Test(views, ordinary_nodes_and_requests_are_shown_by_name)
{
    struct scoreboard *board = make_board();
    struct view view = {.board = board, .now_mono_us = clock_mono_us(), .style = {.width = 80}};
    int row;

    add_node(board, "box1", 3);
    add_node(board, "box2", 1);
    cr_assert(gauges_claim(board, 0, 0, 1, 100, 4));
    row = requests_open(board, 0, "req-abc", "model-0", 100, clock_mono_us());
    requests_node(board, 0, row, 0, 0);
    requests_phase(board, 0, row, REQUEST_DECODE, clock_mono_us());
    for (uint64_t i = 1; i < 1000; i++)
        stats_note(board, 0, 1, STATS_TTFT, i * 1000);
    decisions_add(board, 0, &(struct decision){.id = "box1", .node = 0, .name = "box1"});
    check_all_views(board, "box1", true);

    show_nodes(&view);
    cr_assert_not_null(strstr(buf_cstr(&view.out), "box1"));
    cr_assert_not_null(strstr(buf_cstr(&view.out), "1/4"));
    buf_reset(&view.out);
    show_requests(&view);
    cr_assert_not_null(strstr(buf_cstr(&view.out), "req-abc"));
    cr_assert_not_null(strstr(buf_cstr(&view.out), "decode"));
    buf_reset(&view.out);
    show_models(&view);
    cr_assert_not_null(strstr(buf_cstr(&view.out), "2/2"));
    buf_reset(&view.out);
    cr_assert_eq(show_histogram(&view, "box1", "ttft", NULL), 0);
    cr_assert_not_null(strstr(buf_cstr(&view.out), "####"));
    cr_assert_not_null(strstr(buf_cstr(&view.out), "999 samples"));
    buf_finish(&view.out);
    drop_board(board);
}

Test(views, requests_that_are_held_for_a_node_are_shown_with_it)
{
    struct scoreboard *board = make_board();
    struct view view = {.board = board, .now_mono_us = clock_mono_us(), .style = {.width = 80}};

    add_node(board, "box1", 1);
    for (unsigned worker = 0; worker < 2; worker++) {
        procs_heartbeat(board, worker, view.now_mono_us);
        plans_add(board, worker, 0, 1, 1500 * US_PER_MS);
    }
    cr_assert_eq(show_node(&view, "box1", NULL), 0);
    cr_assert_not_null(strstr(buf_cstr(&view.out), "2 requests with 3.0s of prefill"), "%s",
                       buf_cstr(&view.out));
    buf_reset(&view.out);
    view.json = true;
    show_nodes(&view);
    cr_assert_not_null(strstr(buf_cstr(&view.out), "\"held\":2,\"held_ms\":3000"), "%s",
                       buf_cstr(&view.out));
    buf_finish(&view.out);
    drop_board(board);
}

Test(views, aliases_of_the_configuration_are_models_of_their_nodes)
{
    struct config_alias aliases[] = {
        {(char *)(uintptr_t) "gpt", (char *)(uintptr_t) "model-0"},
        {(char *)(uintptr_t) "model-1", (char *)(uintptr_t) "model-0"},
        {(char *)(uintptr_t) "model-2", (char *)(uintptr_t) "nothing"},
        {(char *)(uintptr_t) "none", (char *)(uintptr_t) "nothing"},
    };
    struct config config = {.aliases = aliases, .aliases_count = ARRAY_LEN(aliases)};
    struct scoreboard *board = make_board();
    struct view view = {.board = board, .now_mono_us = clock_mono_us(), .json = true};
    const char *text;

    add_node(board, "box1", 3);
    add_node(board, "box2", 1);
    aliases_publish(board, &config);
    check_all_views(board, "box1", false);
    show_models(&view);
    text = buf_cstr(&view.out);
    cr_expect_not_null(
        strstr(text, "{\"id\":\"gpt\",\"alias_of\":\"model-0\",\"nodes_total\":2"), "%s", text);
    cr_expect_not_null(strstr(text, "{\"id\":\"model-0\",\"nodes_total\":2"), "%s", text);
    cr_expect_not_null(
        strstr(text, "{\"id\":\"model-1\",\"alias_of\":\"model-0\",\"nodes_total\":2"),
        "a request for it goes there: %s", text);
    cr_expect_not_null(
        strstr(text, "{\"id\":\"model-2\",\"alias_of\":\"model-0\",\"nodes_total\":1"),
        "nobody has what the alias stands for: %s", text);
    cr_expect_null(strstr(text, "{\"id\":\"none\""), "as in /v1/models");
    buf_finish(&view.out);
    drop_board(board);
}

Test(views, each_alias_is_shown_with_its_models_and_what_it_hides)
{
    struct config_alias aliases[] = {
        {(char *)(uintptr_t) "pool", (char *)(uintptr_t) "model-2"},
        {(char *)(uintptr_t) "pool", (char *)(uintptr_t) "nothing"},
        {(char *)(uintptr_t) "pool", (char *)(uintptr_t) "model-0"},
        {(char *)(uintptr_t) "claude-*", (char *)(uintptr_t) "model-0:latest"},
        {(char *)(uintptr_t) "model-1", (char *)(uintptr_t) "model-0"},
    };
    struct config config = {.aliases = aliases, .aliases_count = ARRAY_LEN(aliases)};
    struct scoreboard *board = make_board();
    struct view view = {.board = board, .now_mono_us = clock_mono_us(), .json = true};
    static const char *const wanted[] = {
        "{\"id\":\"pool\",\"alias_of_any\":[\"model-2\",\"nothing\",\"model-0\"],"
        "\"nodes_total\":2",
        "{\"name\":\"pool\",\"hides_model_of\":[],\"models\":[{\"id\":\"model-2\",\"nodes_"
        "total\":1},"
        "{\"id\":\"nothing\",\"nodes_total\":0},{\"id\":\"model-0\",\"nodes_total\":2}]}",
        "{\"name\":\"claude-*\",\"hides_model_of\":[],\"models\":[{\"id\":\"model-0:latest\","
        "\"nodes_total\":2}]}",
        "{\"name\":\"model-1\",\"hides_model_of\":[\"box1\"]",
    };

    add_node(board, "box1", 3);
    add_node(board, "box2", 1);
    aliases_publish(board, &config);
    check_all_views(board, "box1", false);
    show_models(&view);
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
        cr_expect_not_null(strstr(buf_cstr(&view.out), wanted[i]), "%s in %s", wanted[i],
                           buf_cstr(&view.out));
    cr_expect_null(strstr(buf_cstr(&view.out), "\"id\":\"claude-*\""), "it is no model");
    view.json = false;
    buf_reset(&view.out);
    show_models(&view);
    cr_expect_not_null(strstr(buf_cstr(&view.out), "  HIDES\n"), "%s", buf_cstr(&view.out));
    buf_finish(&view.out);
    drop_board(board);
}

Test(views, unknown_names_are_refused_and_the_known_ones_listed)
{
    struct scoreboard *board = make_board();
    struct view view = {.board = board, .now_mono_us = clock_mono_us(), .style = {.width = 80}};
    struct error err;

    cr_assert_eq(show_node(&view, "nobody", &err), DRV_ENOENT);
    cr_assert_not_null(strstr(err.text, "no nodes are known"));
    add_node(board, "box1", 1);
    add_node(board, "box2", 1);
    cr_assert_eq(show_node(&view, "nobody", &err), DRV_ENOENT);
    cr_assert_not_null(strstr(err.text, "\"nobody\" (known: box1, box2)"), "%s", err.text);
    cr_assert_eq(show_histogram(&view, "box1", "nonsense", &err), DRV_EINVAL);
    cr_assert_not_null(strstr(err.text, "ttft, tpot, e2e, connect"));
    cr_assert_eq(buf_size(&view.out), 0);
    buf_finish(&view.out);
    drop_board(board);
}

Test(views, a_decision_is_explained_by_its_terms_after_everybody_died)
{
    static const char want[] =
        "attempt 1, 5.0s ago: no node had room, the request waits\n"
        "fastest, prompt of 1000 tokens, no wait, worker 0, model qwen3\n"
        "   NODE    BUSY  CAP  BACKLOG  CACHED  TOK/S  WAIT  PREFILL  COST  AGAINST\n"
        "   tower    6/4    6        -       0      0     -        -     -  full\n"
        "   laptop   0/1    2        -       0      0     -        -     -  state\n"
        "and 1 more that were not kept\n"
        "\n"
        "attempt 2 (hedge), 3.0s ago: tower\n"
        "fastest, prompt of 1000 tokens, waited 2.0s, worker 0, model qwen3\n"
        "   NODE    BUSY  CAP  BACKLOG  CACHED  TOK/S   WAIT  PREFILL   COST\n"
        "*  tower    5/4    6    167ms     800   2400  500ms    250ms  750ms\n"
        "   laptop   0/1    2        -       0    500      -     2.0s   2.0s\n"
        "and 1 more that were not kept\n";
    struct scoreboard *board = make_board(), *reader;
    struct decision d = {.id = "req-1",
                         .model = "qwen3",
                         .at_mono_us = 10 * US_PER_S,
                         .policy = 0,
                         .prompt_tokens = 1000,
                         .node = DECISIONS_NO_NODE,
                         .candidates_total = 3,
                         .candidates = 2};
    struct view view = {.now_mono_us = 15 * US_PER_S, .style = {.width = 80}};
    struct error err;

    d.candidate[0] = (struct decision_candidate){.node = 0,
                                                 .name = "tower",
                                                 .inflight = 6,
                                                 .slots = 4,
                                                 .cap = 6,
                                                 .exclusions = DECISION_EXCLUDED_FULL};
    d.candidate[1] = (struct decision_candidate){.node = 1,
                                                 .name = "laptop",
                                                 .slots = 1,
                                                 .cap = 2,
                                                 .exclusions = DECISION_EXCLUDED_STATE};
    decisions_add(board, 0, &d);
    /* W + (Q + u) / p: 0.5 + (400 + 200) / 2400 = 0.75 s, and 1000 / 500 = 2 s */
    d.at_mono_us = 12 * US_PER_S;
    d.attempt = 1;
    d.hedge = 1;
    d.waited_us = 2 * US_PER_S;
    d.node = 0;
    (void)strlcpy(d.name, "tower", sizeof(d.name));
    d.candidate[0] = (struct decision_candidate){.node = 1,
                                                 .name = "laptop",
                                                 .slots = 1,
                                                 .cap = 2,
                                                 .prefill_per_s = 500,
                                                 .prefill_s = 2,
                                                 .cost_s = 2};
    d.candidate[1] = (struct decision_candidate){.node = 0,
                                                 .name = "tower",
                                                 .inflight = 5,
                                                 .slots = 4,
                                                 .cap = 6,
                                                 .backlog_ms = 167,
                                                 .matched_tokens = 800,
                                                 .prefill_per_s = 2400,
                                                 .wait_s = 0.5f,
                                                 .prefill_s = 0.25f,
                                                 .cost_s = 0.75f};
    decisions_add(board, 0, &d);
    reap_process(board, 0);
    cr_assert_eq(scoreboard_attach(&reader, path, NULL), 0);
    view.board = reader;
    cr_assert_eq(show_explain(&view, "req-1", &err), 0);
    cr_assert_str_eq(buf_cstr(&view.out), want);
    buf_reset(&view.out);
    cr_assert_eq(show_explain(&view, "req-2", &err), DRV_ENOENT);
    cr_assert_not_null(strstr(err.text, "\"req-2\""), "%s", err.text);
    cr_assert_eq(buf_size(&view.out), 0);
    buf_finish(&view.out);
    scoreboard_detach(reader);
    drop_board(board);
}

Test(views, extreme_values_still_fit_80_columns)
{
    struct scoreboard *board = make_board();
    struct node_info info = {.slots = UINT32_MAX,
                             .queue = UINT32_MAX,
                             .weight = UINT32_MAX,
                             .tls = 1,
                             .engine = 1,
                             .origin = NODE_ORIGIN_REGISTRY,
                             .models_count = NODE_MAX_MODELS};
    const struct node_status window = {.ttft_p50_us = UINT32_MAX,
                                       .ttft_p99_us = UINT32_MAX,
                                       .tpot_p50_us = UINT32_MAX,
                                       .requests_per_s = 1e30f,
                                       .tokens_per_s = 1e30f,
                                       .success_fraction = 1};
    int node = nodes_claim(board, 1), row;

    memset(info.name, 'n', sizeof(info.name) - 1);
    memset(info.address, 'a', sizeof(info.address) - 1);
    memset(info.engine_version, '\x1b', sizeof(info.engine_version) - 1);
    memset(info.agent_version, '\xff', sizeof(info.agent_version) - 1);
    for (unsigned m = 0; m < NODE_MAX_MODELS; m++) {
        memset(info.models[m].id, (int)('A' + m % 32), NODE_MODEL_BYTES - 1);
        info.models[m].max_context = info.models[m].load_ms = UINT32_MAX;
        info.models[m].operations = UINT32_MAX;
        info.models[m].alias_of = m == 0 ? 0 : 1;
    }
    nodes_publish(board, (unsigned)node, &info);
    nodes_set_state(board, (unsigned)node, NODE_DRAINING, NODE_REASON_ENGINE_LOADING, 1);
    nodes_set_drain_wanted(board, (unsigned)node, true);
    nodes_set_load(board, (unsigned)node, UINT32_MAX, UINT32_MAX, 1e30f, 1);
    nodes_set_checked(board, (unsigned)node, 1, UINT32_MAX);
    nodes_set_window(board, (unsigned)node, &window);
    for (unsigned c = 0; c < STATS_COUNTERS; c++)
        stats_count(board, (unsigned)node, 1, (enum stats_counter)c, UINT64_MAX);
    for (uint64_t us = 1; us < UINT64_MAX / 2; us *= 2)
        for (unsigned h = 0; h < STATS_HISTOGRAMS; h++)
            stats_note(board, (unsigned)node, 1, (enum stats_histogram)h, us);
    for (unsigned process = 0; process < procs_rows(board); process++) {
        procs_assign(board, process, UINT32_MAX, true);
        procs_set_pid(board, process, INT32_MAX);
        for (unsigned c = 0; c < PROC_COUNTERS; c++)
            procs_count(board, process, (enum proc_counter)c, -1);
    }
    row = requests_open(board, 3, info.models[0].id, info.models[1].id, UINT32_MAX, 1);
    requests_node(board, 3, row, (uint32_t)node, UINT32_MAX);
    requests_tokens(board, 3, row, UINT32_MAX);
    decide_wildly(board, info.name);
    check_all_views(board, info.name, true);
    drop_board(board);
}

Test(views, every_view_survives_a_body_of_random_bytes)
{
    struct scoreboard *board = make_board();
    uint64_t seed = 31;
    struct stat st;
    uint8_t *bytes;
    int fd = open(path, O_WRONLY);

    cr_assert_not_null(setlocale(LC_CTYPE, "C.UTF-8"));
    cr_assert_eq(fstat(fd, &st), 0);
    bytes = malloc((size_t)st.st_size);
    for (int round = 0; round < 30; round++) {
        for (off_t at = 0; at < st.st_size; at++) {
            seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            bytes[at] = (uint8_t)(seed >> 40);
            if (round % 2 == 1 && at % 4 != 0)
                bytes[at] &= at % 4 == 1 ? 7 : 0; /* small numbers, often valid */
            else if (round % 2 == 1)
                bytes[at] &= 6;
        }
        cr_assert_eq(pwrite(fd, bytes, (size_t)st.st_size - 4096, 4096),
                     (ssize_t)st.st_size - 4096);
        check_all_views(board, "x", false);
    }
    free(bytes);
    (void)close(fd);
    drop_board(board);
}

Test(views, a_file_cut_while_it_is_mapped_ends_the_program_with_a_clear_line)
{
    struct scoreboard *board = make_board(), *reader;
    int ends[2], status;
    char said[256];
    ssize_t n;
    pid_t pid;

    cr_assert_eq(pipe(ends), 0);
    cr_assert_eq(scoreboard_attach(&reader, path, NULL), 0);
    pid = fork();
    cr_assert_neq(pid, -1);
    if (pid == 0) {
        struct view view = {.board = reader, .now_mono_us = 1, .style = {.width = 80}};

        (void)dup2(ends[1], STDERR_FILENO);
        guard_install();
        if (truncate(path, 4096) == 0)
            show_nodes(&view);
        _exit(99); /* it got by without touching the hole */
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_STATUS_FAILED);
    n = read(ends[0], said, sizeof(said) - 1);
    cr_assert_gt(n, 0);
    said[n] = '\0';
    cr_assert_not_null(strstr(said, "cut short"));
    scoreboard_detach(reader);
    drop_board(board);
}

/* ---- processes ---- */

static struct proc_view proc(enum proc_state state, uint64_t heartbeat_mono_us)
{
    return (struct proc_view){.state = state,
                              .pid = 1,
                              .started_mono_us = 1000,
                              .heartbeat_mono_us = heartbeat_mono_us};
}

Test(processes, silence_of_more_than_two_seconds_is_stalled_and_no_pid_is_dead)
{
    const struct proc_view running = proc(PROC_RUNNING, 10 * US_PER_S);
    const struct proc_view none = proc(PROC_FREE, 0);
    const struct proc_view quiet = proc(PROC_RUNNING, 1000);

    cr_assert_eq(processes_judge(&running, false, true, 12 * US_PER_S), PROCESS_WELL);
    cr_assert_eq(processes_judge(&running, false, true, 12 * US_PER_S + 1), PROCESS_STALLED);
    cr_assert_eq(processes_judge(&running, false, true, 9 * US_PER_S), PROCESS_WELL);
    cr_assert_eq(processes_judge(&running, false, false, 10 * US_PER_S), PROCESS_DEAD);
    cr_assert_eq(processes_judge(&none, false, false, 10 * US_PER_S), PROCESS_ABSENT);
    cr_assert_eq(processes_judge(&quiet, true, true, 10 * US_PER_S), PROCESS_WELL);
    cr_assert_eq(processes_judge(&quiet, false, true, 10 * US_PER_S), PROCESS_STALLED);
}

static bool warns(const struct processes *p, const char *part)
{
    struct buf out = BUF_INIT;
    bool found;

    processes_warn(&out, p);
    for (const char *line = buf_cstr(&out), *end; (end = strchr(line, '\n')) != NULL;
         line = end + 1)
        cr_assert_leq(end - line, 80 - 9, "%s", line); /* "warning: " goes before */
    found = part == NULL ? buf_size(&out) == 0 : strstr(buf_cstr(&out), part) != NULL;
    buf_finish(&out);
    return found;
}

Test(processes, faults_are_said)
{
    struct processes p = {.workers = 2,
                          .well = 2,
                          .health = PROCESS_WELL,
                          .master = PROCESS_WELL,
                          .master_pid = INT32_MAX,
                          .health_pid = INT32_MAX};

    cr_assert(warns(&p, NULL), "all is well");
    p.stalled = 1;
    p.silent_us = UINT64_MAX;
    cr_assert(warns(&p, "1 of 2 workers stalled"));
    p.stalled = 2;
    cr_assert(warns(&p, "every worker is stalled (2 of 2)"));
    p.health = PROCESS_STALLED;
    cr_assert(warns(&p, "health process"));
    p.master = PROCESS_DEAD;
    cr_assert(warns(&p, "the master (pid 2147483647) is not running"));
    cr_assert(warns(&(struct processes){.master = PROCESS_WELL}, "no worker is running"));
}

Test(processes, the_survey_of_a_scoreboard_finds_the_stalled_and_the_dead)
{
    struct scoreboard *board = make_board();
    uint64_t now_mono_us = clock_mono_us() + 10 * US_PER_S;
    struct processes p;

    scoreboard_set_config(board, 4, 3);
    for (unsigned process = 0; process < 3; process++) {
        procs_assign(board, process, 4, false);
        procs_set_pid(board, process, process == 2 ? INT32_MAX : getpid()); /* no such pid */
        procs_set_state(board, process, PROC_RUNNING);
    }
    procs_heartbeat(board, 0, now_mono_us);
    procs_assign(board, procs_master_index(board), 1, false);
    procs_set_pid(board, procs_master_index(board), getpid());
    processes_survey(&p, board, now_mono_us);
    cr_assert_eq(p.workers, 3);
    cr_assert_eq(p.well, 1);
    cr_assert_eq(p.stalled, 1);
    cr_assert_eq(p.dead, 1);
    cr_assert_eq(p.wanted, 3);
    cr_assert_eq(p.generation, 4);
    cr_assert_eq(p.master, PROCESS_WELL);
    cr_assert_eq(p.health, PROCESS_ABSENT);
    drop_board(board);
}
