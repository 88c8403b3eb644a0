/*
 * scoreboard.c - a scoreboard file that may be damaged: attached and shown by every
 * view of droverctl and by the metrics, or refused; never a crash, never JSON that is none.
 *
 * Input: a byte.  When its lowest bit is set the rest is the file.  Otherwise the rest is a
 * list of damages to a good file: three bytes of offset, one of length, the bytes; an offset
 * whose highest bit is set is into the header.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/attrs.h"
#include "base/error.h"
#include "base/text/json.h"
#include "droverctl/view.h"
#include "health/admin/metrics.h"
#include "health/admin/nodes_json.h"
#include "health/admin/snapshot.h"
#include "shm/facts/decisions.h"
#include "shm/facts/requests.h"
#include "shm/facts/stats.h"
#include "shm/scoreboard.h"
#include "shm/share/gauges.h"
#include "tests/fuzz/fuzz.h"

#define NOW_US       UINT64_C(100000000)
#define HEADER_BYTES 256

static uint8_t *good; /* the file: a shared mapping, put right again after each input */
static uint8_t *copy; /* of what it should be */
static size_t good_size;
static char good_path[64], bad_path[64];
static int bad_fd;

static void fill(struct scoreboard *board)
{
    struct node_info info = {.slots = 4, .weight = 100, .models_count = 2};
    struct decision decision = {.id = "req-1",
                                .model = "qwen3",
                                .at_mono_us = 1000000,
                                .name = "box1",
                                .candidates_total = 2,
                                .candidates = 2};
    int node = nodes_claim(board, 1), row;

    MUST(node == 0);
    (void)strcpy(info.name, "box1");
    (void)strcpy(info.address, "10.0.0.5:7070");
    (void)strcpy(info.models[0].id, "qwen3");
    (void)strcpy(info.models[1].id, "tiny");
    info.models[0].operations = 0x7ffe;
    nodes_publish(board, 0, &info);
    nodes_set_state(board, 0, NODE_UP, NODE_REASON_PROBES_PASS, 2);
    procs_assign(board, 0, 1, false);
    procs_set_state(board, 0, PROC_RUNNING);
    MUST(gauges_claim(board, 0, 0, 1, 100, 4));
    row = requests_open(board, 0, "req-1", "qwen3", 100, 3);
    requests_node(board, 0, row, 0, 0);
    requests_phase(board, 0, row, REQUEST_DECODE, 4);
    for (uint64_t i = 1; i < 100; i++)
        stats_note(board, 0, 1, STATS_TTFT, i * 1000);
    (void)strcpy(decision.candidate[0].name, "box1");
    decisions_add(board, 0, &decision);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const struct scoreboard_params params = {4, 2, 8, 64, 0};
    struct scoreboard *board;
    struct error err = {0};
    char path[64];
    int fd;

    (void)argc;
    (void)argv;
    (void)snprintf(path, sizeof(path), "/tmp/drover-fuzz-board-%d", (int)getpid());
    MUST(scoreboard_create(&board, path, &params, &err) == 0);
    fill(board);
    scoreboard_detach(board);
    fd = open(path, O_RDWR | O_CLOEXEC);
    MUST(fd != -1);
    (void)unlink(path);
    good_size = (size_t)lseek(fd, 0, SEEK_END);
    good = mmap(NULL, good_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(good != MAP_FAILED);
    copy = (uint8_t *)input_copy(good, good_size);
    (void)snprintf(good_path, sizeof(good_path), "/proc/self/fd/%d", fd);
    bad_fd = memfd_create("bad", MFD_CLOEXEC);
    MUST(bad_fd != -1);
    (void)snprintf(bad_path, sizeof(bad_path), "/proc/self/fd/%d", bad_fd);
    return 0;
}

/* ---- looking -------------------------------------------------------------------------- */

static void check_text(struct view *view, int rc)
{
    struct json_value root;

    MUST(!view->out.failed);
    if (rc != 0 || buf_size(&view->out) == 0)
        return;
    if (view->json)
        MUST(json_check(&root, buf_head(&view->out), buf_size(&view->out), NULL) == 0);
    else
        for (size_t i = 0; i < buf_size(&view->out); i++)
            MUST(buf_head(&view->out)[i] >= 0x20 || buf_head(&view->out)[i] == '\n');
    buf_reset(&view->out);
}

static void show_all(const struct scoreboard *board, bool json)
{
    static const char *const histograms[] = {"ttft", "tpot", "e2e", "connect"};
    struct view view = {.board = board,
                        .now_mono_us = NOW_US,
                        .json = json,
                        .style = {.width = 80, .utf8 = true}};

    show_status(&view);
    check_text(&view, 0);
    show_workers(&view);
    check_text(&view, 0);
    show_requests(&view);
    check_text(&view, 0);
    show_nodes(&view);
    check_text(&view, 0);
    show_models(&view);
    check_text(&view, 0);
    check_text(&view, show_node(&view, "box1", NULL));
    check_text(&view, show_explain(&view, "req-1", NULL));
    for (size_t i = 0; i < ARRAY_LEN(histograms); i++)
        check_text(&view, show_histogram(&view, "box1", histograms[i], NULL));
    buf_finish(&view.out);
}

static void export(const struct scoreboard *board)
{
    const struct snapshot_counts counts = {0};
    struct snapshot snapshot;
    struct json_value root;
    struct buf out = BUF_INIT;

    (void)snapshot_not_ready(board);
    if (snapshot_take(&snapshot, board, &counts, NOW_US, 1) == 0) {
        metrics_build(&out, &snapshot);
        MUST(!out.failed && buf_size(&out) != 0);
        buf_reset(&out);
        nodes_json_build(&out, &snapshot);
        MUST(json_check(&root, buf_head(&out), buf_size(&out), NULL) == 0);
    }
    snapshot_finish(&snapshot);
    buf_finish(&out);
}

static void look(const char *path)
{
    struct scoreboard *board = NULL;
    struct error err = {0};

    if (scoreboard_attach(&board, path, &err) != 0) {
        MUST(board == NULL && err.text[0] != '\0');
        return;
    }
    show_all(board, false);
    show_all(board, true);
    export(board);
    scoreboard_detach(board);
}

/* ---- damage --------------------------------------------------------------------------- */

static void damage(struct input *in)
{
    struct input again = *in;
    bool first = true;

    for (;;) {
        while (in->left != 0) {
            uint32_t offset = input_u24(in);
            size_t n = input_byte(in);
            const uint8_t *bytes = input_bytes(in, n, &n);
            size_t at = (offset & 0x800000) != 0 ? offset % HEADER_BYTES : offset % good_size;

            if (n > good_size - at)
                n = good_size - at;
            if (n != 0)
                memcpy(good + at, first ? bytes : copy + at, n);
        }
        if (!first)
            return;
        look(good_path);
        first = false;
        *in = again;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};

    if ((input_byte(&in) & 1) == 0) {
        damage(&in);
        return 0;
    }
    MUST(ftruncate(bad_fd, 0) == 0);
    MUST(pwrite(bad_fd, in.at, in.left, 0) == (ssize_t)in.left);
    look(bad_path);
    return 0;
}
