/* main.c - the command line of drover. */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config/config.h"
#include "base/config/config_load.h"
#include "base/error.h"
#include "base/text/buf.h"
#include "master/master.h"
#include "master/reload/verify.h"
#include "master/runtime.h"
#include "master/upgrade/handover.h"
#include "master/upgrade/inherit.h"

static const char usage_text[] =
    "Usage: drover -c FILE [-t] [-f]\n"
    "       drover -V | -h\n"
    "Balances requests for language models over the machines that run them.\n"
    "\n"
    "  -c, --config FILE   the configuration (YAML; see docs/configuration.md)\n"
    "  -t, --test          check the configuration, say so in one line, and exit\n"
    "  -f, --foreground    stay in the foreground; it always does\n"
    "  -V, --version       print the version\n"
    "  -h, --help          print this\n"
    "\n"
    "Exit status: 0 ended in order (with -t: the configuration is good), 1 could not start\n"
    "(with -t: it is not), 2 wrong usage.\n";

static void print_warnings(const struct config *config, const char *path)
{
    struct buf lines = BUF_INIT;

    config_warnings(config, &lines);
    runtime_warnings(config, &lines);
    for (const char *line = buf_cstr(&lines), *end; *line != '\0'; line = end + 1) {
        end = strchrnul(line, '\n');
        (void)fprintf(stderr, "drover: %s: warning: %.*s\n", path, (int)(end - line), line);
        if (*end == '\0')
            break;
    }
    buf_finish(&lines);
}

static int check_only(const char *path)
{
    struct config *config;
    struct error err;
    int rc;

    rc = config_load(&config, path, &err);
    if (rc == 0) {
        rc = verify_tls(config, &err);
        if (rc != 0)
            rc = error_wrap(&err, rc, "%s", path);
    }
    if (rc == 0)
        print_warnings(config, path);
    config_destroy(config);
    if (rc != 0) {
        (void)fprintf(stderr, "drover: %s\n", err.text);
        return MASTER_EXIT_FAILED;
    }
    (void)printf("drover: %s: the configuration is good\n", path);
    return MASTER_EXIT_OK;
}

/* Reports the reason to a master that waits for us, and to standard error. */
static int fail(const struct inherited *in, const struct error *err)
{
    (void)fprintf(stderr, "drover: %s\n", err->text);
    handover_say(in->fd[INHERIT_CHANNEL], "failed", err->text);
    return MASTER_EXIT_FAILED;
}

static int run(const char *path)
{
    struct buf text = BUF_INIT;
    struct config *config;
    struct inherited in;
    struct error err;
    int status;

    if (inherit_take(&in, &err) != 0 || config_read(&text, path, &err) != 0 ||
        config_parse(&config, (const char *)text.data, buf_size(&text), path, &err) != 0)
        status = fail(&in, &err);
    else
        status = master_run(path, config, &text, &in);
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
    const char *path = NULL;
    bool test = false;
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
            (void)printf("drover %s\n", DROVER_VERSION);
            return MASTER_EXIT_OK;
        case 'h':
            (void)fputs(usage_text, stdout);
            return MASTER_EXIT_OK;
        default:
            (void)fputs(usage_text, stderr);
            return MASTER_EXIT_USAGE;
        }
    }
    if (path == NULL || optind != argc) {
        (void)fprintf(stderr, "drover: %s\n%s",
                      path == NULL ? "-c FILE is missing" : "too many arguments", usage_text);
        return MASTER_EXIT_USAGE;
    }
    return test ? check_only(path) : run(path);
}
