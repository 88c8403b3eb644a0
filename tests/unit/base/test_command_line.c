/* test_command_line.c - options that programs have in common, and those of their own. */
#include "base/config/command_line.h"

#include <criterion/criterion.h>
#include <stdio.h>

#include "base/error.h"

enum { OPT_PORT = 256, OPT_QUIET };

static const struct option options[] = {
    {"port", required_argument, NULL, OPT_PORT},
    {"quiet", no_argument, NULL, OPT_QUIET},
    COMMAND_LINE_COMMON,
};
static char taken[256]; /* of the program's own, as "number=value " */

static int take(void *data, int option, const char *value, struct error *err)
{
    size_t used = strlen(taken);

    cr_assert_eq(data, taken);
    if (value != NULL && strcmp(value, "bad") == 0)
        return error_set(err, DRV_EINVAL, "--port is no port");
    (void)snprintf(taken + used, sizeof(taken) - used, "%d=%s ", option,
                   value == NULL ? "" : value);
    return 0;
}

/* Words separated by blanks. */
static int parse(struct command_line *line, const char *text, struct error *err)
{
    static char words[256];
    char *argv[16] = {"program"}, *rest = words;
    int argc = 1;

    taken[0] = '\0';
    (void)strlcpy(words, text, sizeof(words));
    for (char *word; (word = strsep(&rest, " ")) != NULL;)
        if (word[0] != '\0')
            argv[argc++] = word;
    return command_line_parse(line, argc, argv, options, take, taken, err);
}

static void refused(const char *text, const char *why)
{
    struct command_line line;
    struct error err = {0};

    cr_assert_eq(parse(&line, text, &err), DRV_EINVAL, "%s", text);
    cr_assert_str_eq(err.text, why);
}

Test(command_line, own_options_are_taken_and_common_ones_are_kept)
{
    struct command_line line;
    struct error err = {0};

    cr_assert_eq(parse(&line, "", &err), 0);
    cr_assert(line.log_level == LOG_LEVEL_INFO && !line.help && !line.version);
    cr_assert_eq(parse(&line, "--port 80 --quiet --log-level debug --port=81", &err), 0);
    cr_assert_str_eq(taken, "256=80 257= 256=81 ");
    cr_assert_eq(line.log_level, LOG_LEVEL_DEBUG);
}

Test(command_line, mistakes_are_named)
{
    refused("--prot 80", "unknown option --prot");
    refused("-l info", "unknown option -l");
    refused("--port", "--port wants a value");
    refused("--log-level loud", "--log-level is error, warn, info or debug, not \"loud\"");
    refused("--quiet now", "unexpected argument \"now\"");
    refused("--port bad", "--port is no port");
}

Test(command_line, help_and_version_win_over_arguments)
{
    struct command_line line;
    struct error err = {0};

    cr_assert_eq(parse(&line, "-h now", &err), 0);
    cr_assert(line.help && !line.version);
    cr_assert_eq(parse(&line, "--version now", &err), 0);
    cr_assert(line.version && !line.help);
}
