/* command_line.c - the long options of a program. */
#include "base/config/command_line.h"

#include <stdio.h>

#include "base/error.h"

static int take_common(struct command_line *line, int option, const char *value,
                       struct error *err)
{
    if (option == 'h')
        line->help = true;
    else if (option == 'V')
        line->version = true;
    else if (!log_level_parse(&line->log_level, value))
        return error_set(err, DRV_EINVAL,
                         "--log-level is error, warn, info or debug, not \"%s\"", value);
    return 0;
}

int command_line_parse(struct command_line *out, int argc, char **argv,
                       const struct option *options, command_line_take *take, void *data,
                       struct error *err)
{
    int option, rc;

    *out = (struct command_line){.log_level = LOG_LEVEL_INFO};
    optind = 0; /* glibc: start afresh, also in tests that parse twice */
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":hV", options, NULL)) != -1) {
        if (option == '?')
            return error_set(err, DRV_EINVAL, "unknown option %s", argv[optind - 1]);
        if (option == ':')
            return error_set(err, DRV_EINVAL, "%s wants a value", argv[optind - 1]);
        rc = option == 'h' || option == 'V' || option == 'l'
                 ? take_common(out, option, optarg, err)
                 : take(data, option, optarg, err);
        if (rc != 0)
            return rc;
    }
    if (optind < argc && !out->help && !out->version)
        return error_set(err, DRV_EINVAL, "unexpected argument \"%s\"", argv[optind]);
    return 0;
}

bool command_line_answered(const struct command_line *line, const char *program,
                           const char *version, const char *help)
{
    if (line->help)
        (void)fputs(help, stdout);
    else if (line->version)
        (void)printf("%s %s\n", program, version);
    return line->help || line->version;
}

int command_line_wrong(const char *program, const struct error *err)
{
    (void)fprintf(stderr, "%s: %s (see %s --help)\n", program, err->text, program);
    return COMMAND_LINE_EXIT;
}
