/*
 * main.c - droverctl: shows the scoreboard, and sends the operator's commands to the master.
 *
 * The views need no process to be alive: they only map a file, read-only.  So they work when
 * every worker is wedged, and after everything has died.
 */
#include <getopt.h>
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config/config_find.h"
#include "base/error.h"
#include "base/secure/api_keys.h"
#include "base/version.h"
#include "droverctl/format/text.h"
#include "droverctl/guard.h"
#include "droverctl/key.h"
#include "droverctl/operate.h"
#include "droverctl/processes.h"
#include "droverctl/top.h"
#include "droverctl/view.h"
#include "shm/scoreboard.h"

#define MIN_WIDTH 80u
#define MAX_WIDTH 240u

#define MAX_TIMEOUT_S 86400

static const char usage[] =
    "Usage: droverctl [OPTION]... COMMAND [ARGUMENT]...\n"
    "\n"
    "Look:\n"
    "  status                 how Llama Drover is\n"
    "  nodes                  all nodes\n"
    "  node NAME              one node in full\n"
    "  workers                Drover's own processes\n"
    "  requests               open requests, the oldest first\n"
    "  models                 which models and aliases are served, and where\n"
    "  histogram NODE [WHICH] how long things take there: ttft (the default),\n"
    "                         tpot, e2e or connect\n"
    "  explain ID             why a request went to its node: what each cost\n"
    "  top                    status and one of these tables, live; q ends it\n"
    "\n"
    "Change:\n"
    "  drain NODE [--wait]    send it no more requests; --wait until it is idle\n"
    "  undrain NODE           send it requests again\n"
    "  reload                 put the changed configuration file into force\n"
    "  upgrade                let the program file as it is now take over\n"
    "  scale N                run N workers (1 to 64)\n"
    "  stop [--quick]         finish open requests and end; --quick: soon\n"
    "Each returns when it is done.  --timeout S: give up waiting after S seconds.\n"
    "\n"
    "Make:\n"
    "  key new NAME           an API key: its line for api.keys_file on standard output,\n"
    "                         the key itself on standard error\n"
    "\n"
    "Options:\n"
    "  -d, --runtime-dir DIR  where the scoreboard and the control socket are\n"
    "      --json             JSON instead of tables\n"
    "      --no-color         no colour, also on a terminal (as with NO_COLOR set)\n"
    "  -h, --help             this text\n"
    "  -V, --version          the version\n"
    "\n"
    "Exit status: 0 done, 1 failed or refused, 2 wrong usage, 3 not running.\n";

struct ctl_options {
    char runtime_dir[256];
    bool dir_given;
    bool json, no_color, quick, wait;
    uint32_t timeout_s; /* 0 = none */
    const char *command;
    const char *argument[2]; /* NULL = not given */
    int arguments;
};

enum view_kind {
    VIEW_NONE = 0,
    VIEW_STATUS,
    VIEW_NODES,
    VIEW_NODE,
    VIEW_WORKERS,
    VIEW_REQUESTS,
    VIEW_MODELS,
    VIEW_HISTOGRAM,
    VIEW_EXPLAIN,
};

static const struct {
    const char *name;
    enum view_kind view; /* VIEW_NONE: it changes something */
    int least, most;     /* arguments */
} commands[] = {
    {"status", VIEW_STATUS, 0, 0},       {"nodes", VIEW_NODES, 0, 0},
    {"node", VIEW_NODE, 1, 1},           {"workers", VIEW_WORKERS, 0, 0},
    {"requests", VIEW_REQUESTS, 0, 0},   {"models", VIEW_MODELS, 0, 0},
    {"histogram", VIEW_HISTOGRAM, 1, 2}, {"explain", VIEW_EXPLAIN, 1, 1},
    {"drain", VIEW_NONE, 1, 1},          {"undrain", VIEW_NONE, 1, 1},
    {"reload", VIEW_NONE, 0, 0},         {"upgrade", VIEW_NONE, 0, 0},
    {"scale", VIEW_NONE, 1, 1},          {"stop", VIEW_NONE, 0, 0},
};

/* One line on standard error, whatever the text contains. */
static void complain(const char *text)
{
    struct buf line = BUF_INIT;

    text_escape(&line, text, strcmp(nl_langinfo(CODESET), "UTF-8") == 0);
    (void)fprintf(stderr, "droverctl: %s\n", buf_cstr(&line));
    buf_finish(&line);
}

static int usage_error(const char *text)
{
    char line[ERROR_TEXT_BYTES + 32];

    (void)snprintf(line, sizeof(line), "%s; see droverctl --help", text);
    complain(line);
    return EXIT_STATUS_USAGE;
}

static void style_init(struct style *style, bool no_color)
{
    const char *none = getenv("NO_COLOR"), *term = getenv("TERM");
    bool terminal = isatty(STDOUT_FILENO) == 1;
    struct winsize size;

    style->utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    style->color = terminal && !no_color && (none == NULL || none[0] == '\0') &&
                   (term == NULL || strcmp(term, "dumb") != 0);
    style->width = MIN_WIDTH;
    if (terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > MIN_WIDTH)
        style->width = size.ws_col < MAX_WIDTH ? size.ws_col : MAX_WIDTH;
}

static int make_view(struct view *view, enum view_kind kind, const struct ctl_options *options,
                     struct error *err)
{
    switch (kind) {
    case VIEW_NONE:
        break;
    case VIEW_STATUS:
        show_status(view);
        break;
    case VIEW_NODES:
        show_nodes(view);
        break;
    case VIEW_NODE:
        return show_node(view, options->argument[0], err);
    case VIEW_WORKERS:
        show_workers(view);
        break;
    case VIEW_REQUESTS:
        show_requests(view);
        break;
    case VIEW_MODELS:
        show_models(view);
        break;
    case VIEW_HISTOGRAM:
        return show_histogram(view, options->argument[0],
                              options->argument[1] == NULL ? "ttft" : options->argument[1],
                              err);
    case VIEW_EXPLAIN:
        return show_explain(view, options->argument[0], err);
    }
    return 0;
}

static int print(const struct buf *out)
{
    if (out->failed) {
        complain("out of memory");
        return EXIT_STATUS_FAILED;
    }
    if (fwrite(buf_head(out), 1, buf_size(out), stdout) != buf_size(out) ||
        fflush(stdout) != 0) {
        complain("cannot write to standard output");
        return EXIT_STATUS_FAILED;
    }
    return EXIT_STATUS_OK;
}

static void hint_at_dir(const struct ctl_options *options)
{
    if (!options->dir_given)
        complain("where drover has another runtime_dir, name it with --runtime-dir");
}

static int look(enum view_kind kind, const struct ctl_options *options)
{
    struct view view = {.json = options->json, .out = BUF_INIT};
    struct processes processes;
    struct scoreboard *board;
    struct error err = {0};
    char path[512];
    int rc, status;

    (void)snprintf(path, sizeof(path), "%s/%s", options->runtime_dir, SCOREBOARD_FILE_NAME);
    rc = scoreboard_attach(&board, path, &err);
    if (rc == DRV_ENOENT) {
        char text[600];

        (void)snprintf(text, sizeof(text), "drover is not running (there is no %s)", path);
        complain(text);
        hint_at_dir(options);
        return EXIT_STATUS_NOT_RUNNING;
    }
    if (rc != 0) {
        complain(err.text);
        return EXIT_STATUS_FAILED;
    }
    view.board = board;
    view.now_mono_us = clock_mono_us();
    style_init(&view.style, options->no_color);
    processes_survey(&processes, board, view.now_mono_us);
    rc = make_view(&view, kind, options, &err);
    if (rc == 0) {
        if (view.json)
            buf_str(&view.out, "\n");
        else
            view_add_warnings(&view, &processes);
        status = print(&view.out);
        if (status == EXIT_STATUS_OK && processes.master == PROCESS_DEAD)
            status = EXIT_STATUS_NOT_RUNNING;
    } else {
        complain(err.text);
        status = EXIT_STATUS_FAILED;
    }
    buf_finish(&view.out);
    scoreboard_detach(board);
    return status;
}

static int change(const struct ctl_options *options)
{
    struct operation operation = {.json = options->json,
                                  .utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0,
                                  .wait = options->wait,
                                  .timeout_s = options->timeout_s};
    struct error err = {0};
    int status;

    if (operate_parse(&operation.request, options->command, options->argument[0], &err) != 0)
        return usage_error(err.text);
    operation.request.quick = options->quick;
    status = operate_run(&operation, options->runtime_dir, &err);
    if (status != EXIT_STATUS_OK)
        complain(err.text);
    if (status == EXIT_STATUS_NOT_RUNNING)
        hint_at_dir(options);
    return status;
}

static int watch(const struct ctl_options *options)
{
    struct style style;

    if (options->arguments != 0)
        return usage_error("top: unexpected argument");
    if (options->json)
        return usage_error("--json does not go with top");
    style_init(&style, options->no_color);
    return top_run(options->runtime_dir, style.color);
}

static int make_key(const struct ctl_options *options)
{
    if (options->arguments != 2 || strcmp(options->argument[0], "new") != 0)
        return usage_error("key: it is `key new NAME`");
    if (!api_key_name_good(options->argument[1]))
        return usage_error("key: a name is 1 to 63 of A-Z a-z 0-9 . _ -");
    return key_new(options->argument[1]);
}

/* 0: it is none. */
static uint32_t parse_timeout(const char *text)
{
    unsigned long n;
    char *end;

    if (text[0] < '0' || text[0] > '9')
        return 0;
    n = strtoul(text, &end, 10);
    return *end == '\0' && n <= MAX_TIMEOUT_S ? (uint32_t)n : 0;
}

/* -1: go on.  Else the exit status. */
static int parse_options(struct ctl_options *options, int argc, char **argv)
{
    enum {
        OPTION_JSON = 256,
        OPTION_NO_COLOR,
        OPTION_QUICK,
        OPTION_WAIT,
        OPTION_TIMEOUT,
    };
    static const struct option names[] = {
        {"runtime-dir", required_argument, NULL, 'd'},
        {"json", no_argument, NULL, OPTION_JSON},
        {"no-color", no_argument, NULL, OPTION_NO_COLOR},
        {"quick", no_argument, NULL, OPTION_QUICK},
        {"wait", no_argument, NULL, OPTION_WAIT},
        {"timeout", required_argument, NULL, OPTION_TIMEOUT},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {NULL, 0, NULL, 0},
    };
    char text[128];
    int c;

    config_find_runtime_dir(options->runtime_dir, sizeof(options->runtime_dir));
    while ((c = getopt_long(argc, argv, ":d:hV", names, NULL)) != -1) {
        switch (c) {
        case 'd':
            if (strlcpy(options->runtime_dir, optarg, sizeof(options->runtime_dir)) >=
                sizeof(options->runtime_dir))
                return usage_error("the runtime directory's path is too long");
            options->dir_given = true;
            break;
        case OPTION_JSON:
            options->json = true;
            break;
        case OPTION_NO_COLOR:
            options->no_color = true;
            break;
        case OPTION_QUICK:
            options->quick = true;
            break;
        case OPTION_WAIT:
            options->wait = true;
            break;
        case OPTION_TIMEOUT:
            options->timeout_s = parse_timeout(optarg);
            if (options->timeout_s == 0)
                return usage_error("--timeout takes a number of seconds from 1 to 86400");
            break;
        case 'h':
            (void)fputs(usage, stdout);
            return EXIT_STATUS_OK;
        case 'V':
            (void)printf("droverctl %s\n", version_text());
            return EXIT_STATUS_OK;
        case ':':
            (void)snprintf(text, sizeof(text), "%.64s needs an argument", argv[optind - 1]);
            return usage_error(text);
        default:
            (void)snprintf(text, sizeof(text), "unknown option %.64s", argv[optind - 1]);
            return usage_error(text);
        }
    }
    if (optind == argc)
        return usage_error("a command is missing");
    options->command = argv[optind++];
    options->arguments = argc - optind;
    for (int i = 0; i < 2 && optind < argc; i++)
        options->argument[i] = argv[optind++];
    return -1;
}

int main(int argc, char **argv)
{
    struct ctl_options options = {0};
    char text[160];
    int status;

    (void)setlocale(LC_CTYPE, "");
    guard_install();
    status = parse_options(&options, argc, argv);
    if (status != -1)
        return status;
    if (options.quick && strcmp(options.command, "stop") != 0)
        return usage_error("--quick goes with stop only");
    if (options.wait && strcmp(options.command, "drain") != 0)
        return usage_error("--wait goes with drain only");
    if (strcmp(options.command, "key") == 0)
        return make_key(&options);
    if (strcmp(options.command, "top") == 0)
        return watch(&options);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(options.command, commands[i].name) != 0)
            continue;
        if (options.arguments < commands[i].least || options.arguments > commands[i].most) {
            (void)snprintf(text, sizeof(text), "%s: %s argument", commands[i].name,
                           options.arguments < commands[i].least ? "missing" : "unexpected");
            return usage_error(text);
        }
        return commands[i].view == VIEW_NONE ? change(&options)
                                             : look(commands[i].view, &options);
    }
    (void)snprintf(text, sizeof(text), "unknown command \"%.64s\"", options.command);
    return usage_error(text);
}
