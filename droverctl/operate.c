/* operate.c - the commands that change something. */
#include "droverctl/operate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/text/buf.h"
#include "droverctl/command.h"
#include "droverctl/format/emit.h"
#include "droverctl/format/text.h"
#include "droverctl/processes.h"
#include "droverctl/view.h"
#include "shm/scoreboard.h"
#include "shm/share/gauges.h"

#define MAX_WORKERS 64
#define POLL_US     (100 * US_PER_MS)
#define IDLE_LOOKS  3 /* in a row: a worker may just be sending what it chose before */

static bool utf8_output; /* for print_progress(), which takes no context */

static int parse_workers(uint32_t *out, const char *text, struct error *err)
{
    char *end;
    unsigned long n;

    errno = 0;
    n = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || n < 1 ||
        n > MAX_WORKERS)
        return error_set(err, DRV_EINVAL, "scale: workers must be a number from 1 to %d",
                         MAX_WORKERS);
    *out = (uint32_t)n;
    return 0;
}

static int parse_node(struct control_request *out, const char *name, struct error *err)
{
    if (name[0] == '\0' || strlcpy(out->node, name, sizeof(out->node)) >= sizeof(out->node))
        return error_set(err, DRV_EINVAL, "%s: \"%.70s\" cannot be the name of a node",
                         control_op_name(out->op), name);
    return 0;
}

int operate_parse(struct control_request *out, const char *command, const char *argument,
                  struct error *err)
{
    *out = (struct control_request){0};
    for (enum control_op op = CONTROL_DRAIN; op <= CONTROL_STOP; op++)
        if (strcmp(command, control_op_name(op)) == 0)
            out->op = op;
    switch (out->op) {
    case CONTROL_NONE:
        return error_set(err, DRV_ENOENT, "unknown command \"%.64s\"", command);
    case CONTROL_DRAIN:
    case CONTROL_UNDRAIN:
        return parse_node(out, argument == NULL ? "" : argument, err);
    case CONTROL_SCALE:
        return parse_workers(&out->workers, argument == NULL ? "" : argument, err);
    case CONTROL_RELOAD:
    case CONTROL_UPGRADE:
    case CONTROL_STOP:
        break;
    }
    return 0;
}

static void print_line(FILE *to, const char *text)
{
    struct buf line = BUF_INIT;

    text_escape(&line, text, utf8_output);
    (void)fprintf(to, "%s\n", buf_cstr(&line));
    (void)fflush(to);
    buf_finish(&line);
}

static void print_progress(const char *text)
{
    print_line(stderr, text);
}

/* After a refusal that may be about a name: adds which names there are. */
static void add_known_nodes(struct error *err, const char *runtime_dir, const char *name)
{
    struct scoreboard *board;
    char path[512];

    (void)snprintf(path, sizeof(path), "%s/%s", runtime_dir, SCOREBOARD_FILE_NAME);
    if (scoreboard_attach(&board, path, NULL) != 0)
        return;
    if (nodes_find(board, name) == -1)
        view_known_nodes(err->text, sizeof(err->text), board);
    scoreboard_detach(board);
}

/* Has the node nothing open any more?  *open gets how much it has. */
static bool idle_now(const struct scoreboard *board, const char *name, uint32_t *open)
{
    int node = nodes_find(board, name);
    struct node_status status;

    *open = 0;
    if (node == -1 || !nodes_status(board, (unsigned)node, &status))
        return true; /* it has left meanwhile */
    *open = gauges_sum(board, (unsigned)node, status.generation).inflight;
    if (status.state == NODE_UP || status.state == NODE_PROBATION)
        return false; /* the command has not taken effect yet */
    return *open == 0;
}

static void print_open(uint32_t open, const char *name)
{
    char text[128];

    (void)snprintf(text, sizeof(text), "%u request%s open on %s", open,
                   open == 1 ? " is" : "s are", name);
    print_progress(text);
}

/* Waits until the node has no open request, and shows how many it has when that changes. */
static int wait_until_idle(const char *runtime_dir, const char *name, uint64_t until_mono_us,
                           struct error *err)
{
    const struct timespec pause = {.tv_nsec = POLL_US * 1000};
    struct scoreboard *board;
    char path[512];
    uint32_t open, shown = 0;
    int idle = 0, rc;

    (void)snprintf(path, sizeof(path), "%s/%s", runtime_dir, SCOREBOARD_FILE_NAME);
    rc = scoreboard_attach(&board, path, err);
    if (rc != 0)
        return rc;
    while (idle < IDLE_LOOKS) {
        struct processes processes;

        processes_survey(&processes, board, clock_mono_us());
        if (processes.master == PROCESS_DEAD) {
            rc = error_set(err, DRV_ENOENT, "the master ended while waiting for \"%s\"", name);
            break;
        }
        idle = idle_now(board, name, &open) ? idle + 1 : 0;
        if (open != shown)
            print_open(open, name);
        shown = open;
        if (until_mono_us != 0 && clock_mono_us() >= until_mono_us && idle < IDLE_LOOKS) {
            rc = error_set(err, DRV_EAGAIN, "%u request%s still open on \"%s\"", open,
                           open == 1 ? " is" : "s are", name);
            break;
        }
        if (idle < IDLE_LOOKS)
            (void)nanosleep(&pause, NULL);
    }
    scoreboard_detach(board);
    return rc;
}

static void print_answer(const struct operation *operation, bool ok, const char *text)
{
    struct buf out = BUF_INIT;

    if (operation->json) {
        emit_object(&out, NULL);
        emit_bool(&out, "ok", ok);
        emit_text(&out, "op", control_op_name(operation->request.op));
        emit_text(&out, ok ? "text" : "error", text);
        emit_end_object(&out);
        (void)printf("%s\n", buf_cstr(&out));
        (void)fflush(stdout);
    } else if (ok) {
        print_line(stdout, text[0] == '\0' ? "done" : text);
    }
    buf_finish(&out);
}

/* The answer of the master, as a code. */
static int ask(const struct operation *operation, const char *runtime_dir,
               uint64_t until_mono_us, struct control_reply *reply, struct error *err)
{
    const struct control_request *request = &operation->request;
    bool names_node = request->op == CONTROL_DRAIN || request->op == CONTROL_UNDRAIN;
    int rc = command_send(reply, runtime_dir, request, until_mono_us, print_progress, err);

    if (rc != 0 || reply->ok)
        return rc;
    rc = error_set(err, DRV_EINVAL, "%s: %.400s", control_op_name(request->op), reply->text);
    if (names_node)
        add_known_nodes(err, runtime_dir, request->node);
    return rc;
}

int operate_run(const struct operation *operation, const char *runtime_dir, struct error *err)
{
    uint64_t until_mono_us =
        operation->timeout_s == 0 ? 0 : clock_mono_us() + operation->timeout_s * US_PER_S;
    struct control_reply reply;
    int rc;

    utf8_output = operation->utf8;
    rc = ask(operation, runtime_dir, until_mono_us, &reply, err);
    if (rc == 0 && operation->wait) {
        if (!operation->json)
            print_line(stdout, reply.text);
        rc = wait_until_idle(runtime_dir, operation->request.node, until_mono_us, err);
        (void)strlcpy(reply.text, "idle: no request is open there", sizeof(reply.text));
    }
    print_answer(operation, rc == 0, rc == 0 ? reply.text : err->text);
    if (rc == DRV_ENOENT)
        return EXIT_STATUS_NOT_RUNNING;
    return rc == 0 ? EXIT_STATUS_OK : EXIT_STATUS_FAILED;
}
