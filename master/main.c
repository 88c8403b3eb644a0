/* main.c - the command line of drover. */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config/config.h"
#include "base/config/config_find.h"
#include "base/config/config_load.h"
#include "base/error.h"
#include "base/text/buf.h"
#include "base/version.h"
#include "master/master.h"
#include "master/reload/verify.h"
#include "master/runtime.h"
#include "master/start/greeting.h"
#include "master/upgrade/handover.h"
#include "master/upgrade/inherit.h"

static const char usage_text[] =
    "Usage: drover [-c FILE] [-t] [-f]\n"
    "       drover -V | -h\n"
    "Balances requests for language models over the machines that run them.\n"
    "\n"
    "  -c, --config FILE   the configuration (YAML; see docs/configuration.md); without it\n"
    "                      ~/.config/drover/drover.yaml (not for root), then\n"
    "                      /etc/drover/drover.yaml, then the defaults\n"
    "  -t, --test          check the configuration, say so in one line, and exit\n"
    "  -f, --foreground    stay in the foreground; it always does\n"
    "  -V, --version       print the version\n"
    "  -h, --help          print this\n"
    "\n"
    "Exit status: 0 ended in order (with -t: the configuration is good), 1 could not start\n"
    "(with -t: it is not), 2 wrong usage.\n";

/* Each line of `lines` on standard error, after "drover: " and `prefix`. */
static void print_lines(struct buf *lines, const char *prefix)
{
    for (const char *line = buf_cstr(lines), *end; *line != '\0'; line = end + 1) {
        end = strchrnul(line, '\n');
        (void)fprintf(stderr, "drover: %s%.*s\n", prefix, (int)(end - line), line);
        if (*end == '\0')
            break;
    }
    buf_finish(lines);
}

static void print_warnings(const struct config *config, const char *name)
{
    struct buf lines = BUF_INIT, prefix = BUF_INIT;

    config_warnings(config, &lines);
    runtime_warnings(config, &lines);
    buf_printf(&prefix, "%s: warning: ", name);
    print_lines(&lines, buf_cstr(&prefix));
    buf_finish(&prefix);
}

/* `path` NULL: the defaults. */
static int load(struct config **out, struct buf *text, const char *path, struct error *err)
{
    int rc = 0;

    *out = NULL;
    if (path == NULL)
        buf_str(text, CONFIG_DEFAULTS);
    else
        rc = config_read(text, path, err);
    return rc != 0 ? rc
                   : config_parse(out, (const char *)text->data, buf_size(text),
                                  path == NULL ? CONFIG_DEFAULTS_NAME : path, err);
}

static int check_only(const char *path)
{
    const char *name = path == NULL ? CONFIG_DEFAULTS_NAME : path;
    struct buf text = BUF_INIT, said = BUF_INIT;
    struct config *config;
    struct error err;
    int rc = load(&config, &text, path, &err);

    if (rc == 0) {
        rc = verify_tls(config, &err);
        if (rc != 0)
            rc = error_wrap(&err, rc, "%s", name);
    }
    if (rc == 0)
        print_warnings(config, name);
    config_destroy(config);
    buf_finish(&text);
    if (rc != 0) {
        (void)fprintf(stderr, "drover: %s\n", err.text);
        return MASTER_EXIT_FAILED;
    }
    if (path == NULL)
        greeting_no_file(&said);
    else
        buf_str(&said, path);
    (void)printf("drover: %s: %s good\n", buf_cstr(&said),
                 path == NULL ? "the defaults are" : "the configuration is");
    buf_finish(&said);
    return MASTER_EXIT_OK;
}

/* Reports the reason to a master that waits for us, and to standard error. */
static int fail(const struct inherited *in, const struct error *err)
{
    (void)fprintf(stderr, "drover: %s\n", err->text);
    handover_say(in->fd[INHERIT_CHANNEL], "failed", err->text);
    return MASTER_EXIT_FAILED;
}

/* `chosen`: the path was looked for, and a person may want to know what came of it. */
static int run(const char *path, bool chosen)
{
    struct buf text = BUF_INIT, lines = BUF_INIT;
    struct config *config;
    struct inherited in;
    struct error err;
    int status;

    if (inherit_take(&in, &err) != 0 || load(&config, &text, path, &err) != 0) {
        status = fail(&in, &err);
    } else {
        if (chosen && in.fd[INHERIT_CHANNEL] == -1) {
            greeting(&lines, path, config);
            print_lines(&lines, "");
        }
        status = master_run(path, config, &text, &in);
    }
    inherit_close(&in);
    buf_finish(&text);
    return status;
}

int main(int argc, char **argv, char **envp)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'}, {"test", no_argument, NULL, 't'},
        {"foreground", no_argument, NULL, 'f'},   {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0},
    };
    static char found[CONFIG_FIND_BYTES];
    const char *path = NULL;
    bool test = false, chosen;
    int c;

    /* Do not trust the umask that we were started with: no other user writes to our files. */
    (void)umask(umask(S_IWGRP | S_IWOTH) | S_IWGRP | S_IWOTH);
    setproctitle_init(argc, argv, envp);
    while ((c = getopt_long(argc, argv, "c:tfVh", options, NULL)) != -1) {
        switch (c) {
        case 'c':
            path = optarg;
            break;
        case 't':
            test = true;
            break;
        case 'f':
            break;
        case 'V':
            (void)printf("drover %s\n", version_text());
            return MASTER_EXIT_OK;
        case 'h':
            (void)fputs(usage_text, stdout);
            return MASTER_EXIT_OK;
        default:
            (void)fputs(usage_text, stderr);
            return MASTER_EXIT_USAGE;
        }
    }
    if (optind != argc) {
        (void)fprintf(stderr,
                      "drover: unexpected argument \"%s\"; a configuration is given by "
                      "-c FILE\n%s",
                      argv[optind], usage_text);
        return MASTER_EXIT_USAGE;
    }
    chosen = path == NULL;
    if (chosen && config_find(found))
        path = found;
    return test ? check_only(path) : run(path, chosen);
}
