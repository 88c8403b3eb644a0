/* test_config_expand.c - ${NAME}, ~, relative paths and URLs in a configuration. */
#include "base/config/config_expand.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config/config.h"
#include "base/config/config_load.h"
#include "base/config/file_path.h"
#include "base/error.h"

static char dir[] = "/tmp/drover-expand-XXXXXX";

static void make_files(void)
{
    char path[128];
    FILE *f;

    cr_assert_not_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/token", dir);
    f = fopen(path, "w");
    cr_assert_not_null(f);
    (void)fputs("correct-horse-battery\n", f);
    (void)fclose(f);
    cr_assert_eq(chmod(path, 0600), 0);
}

static void remove_files(void)
{
    char command[64];

    (void)snprintf(command, sizeof(command), "rm -rf %s", dir);
    (void)!system(command);
}

/* As the text of the file DIR/c.yaml. */
static int parse(struct config **out, const char *text, struct error *err)
{
    char name[64];

    (void)snprintf(name, sizeof(name), "%s/c.yaml", dir);
    return config_parse(out, text, strlen(text), name, err);
}

static struct config *parse_good(const char *text)
{
    struct config *config = NULL;
    struct error err = {0};

    cr_assert_eq(parse(&config, text, &err), 0, "%s", err.text);
    return config;
}

static void expect(const char *text, const char *path, const char *end)
{
    size_t n = strlen(dir);

    cr_assert_not_null(text);
    cr_assert(strncmp(text, path, strlen(path)) == 0 && strcmp(text + strlen(path), end) == 0,
              "%s, not %.*s%s", text, (int)n, path, end);
}

/* The reason, and the place "c.yaml:PLACE: ". */
static void expect_bad(const char *text, const char *place, const char *reason)
{
    struct config *config;
    struct error err = {0};
    char start[128];

    cr_assert_eq(parse(&config, text, &err), DRV_EINVAL, "accepted: %s", text);
    (void)snprintf(start, sizeof(start), "%s/c.yaml:%s: ", dir, place);
    cr_assert_eq(strncmp(err.text, start, strlen(start)), 0, "%s: %s", start, err.text);
    cr_assert_not_null(strstr(err.text, reason), "'%s': %s", reason, err.text);
    cr_assert_null(strstr(err.text, "s3cr3t"), "%s", err.text);
    cr_assert_null(strstr(err.text, "horse"), "%s", err.text);
}

TestSuite(expand, .init = make_files, .fini = remove_files);

Test(expand, paths_start_at_the_file_that_names_them)
{
    struct config *config = parse_good("node_token_file: token\n"
                                       "runtime_dir: ./run\n"
                                       "state_dir: .\n"
                                       "log: {file: logs/a.log, access: \"-\"}\n"
                                       "api: {listen: \"unix:api.sock\"}\n"
                                       "admin: {listen: \"unix:/run/admin.sock\"}\n");

    expect(config->node_token_file, dir, "/token");
    cr_assert_str_eq(config->tokens[0], "correct-horse-battery");
    expect(config->runtime_dir, dir, "/run");
    expect(config->state_dir, dir, "");
    expect(config->log_file, dir, "/logs/a.log");
    cr_assert_str_eq(config->access_log, "-");
    cr_assert_str_eq(config->admin.address, "unix:/run/admin.sock");
    cr_assert_eq(strncmp(config->api.address, "unix:", 5), 0);
    expect(config->api.address + 5, dir, "/api.sock");
    config_destroy(config);
}

Test(expand, a_file_named_without_a_slash_is_in_the_working_directory)
{
    char base[256], cwd[256];

    cr_assert_eq(chdir(dir), 0);
    cr_assert_not_null(getcwd(cwd, sizeof(cwd)));
    cr_assert_eq(file_path_base(base, sizeof(base), "c.yaml", NULL), 0);
    cr_assert_str_eq(base, cwd);
    cr_assert_eq(file_path_base(base, sizeof(base), "./a/../c.yaml", NULL), 0);
    expect(base, cwd, "/a/..");
    cr_assert_eq(file_path_base(base, sizeof(base), "~odd/c.yaml", NULL), 0);
    expect(base, cwd, "/~odd");
    cr_assert_eq(file_path_base(base, sizeof(base), "/c.yaml", NULL), 0);
    cr_assert_str_eq(base, "/");
    cr_assert_eq(file_path_base(base, 8, "/quite/long/c.yaml", NULL), DRV_EINVAL);
}

Test(expand, a_tilde_is_the_home_directory)
{
    struct config *config;
    char path[64];

    cr_assert_eq(setenv("HOME", dir, 1), 0);
    config = parse_good("node_token_file: ~/token\nstate_dir: \"~\"\nruntime_dir: ~//run\n");
    expect(config->node_token_file, dir, "/token");
    expect(config->state_dir, dir, "");
    expect(config->runtime_dir, dir, "/run");
    config_destroy(config);
    expect_bad("state_dir: ~\n", "1:12", "use quotes"); /* YAML's null */
    expect_bad("workers: 1\nstate_dir: ~bob/state\n", "2:12",
               "a user's name is not understood");
    cr_assert_eq(setenv("HOME", "home", 1), 0);
    expect_bad("state_dir: ~/x\n", "1:12", "no absolute path");
    cr_assert_eq(unsetenv("HOME"), 0);
    expect_bad("api: {keys_file: ~/x}\n", "1:18", "HOME, which is not set");
    cr_assert_eq(file_path(path, sizeof(path), "/base", "./~odd", NULL), 0);
    cr_assert_str_eq(path, "/base/~odd");
}

Test(expand, variables_are_put_in_once_and_add_no_structure)
{
    struct config *config;

    cr_assert_eq(setenv("A_1", "4", 1), 0);
    cr_assert_eq(setenv("_b", "x}, admin: {allow_remote: true", 1), 0);
    cr_assert_eq(setenv("NESTED", "${A_1}", 1), 0);
    cr_assert_eq(setenv("WORD", "bulk", 1), 0);
    cr_assert_eq(setenv("YES", "true", 1), 0);
    cr_assert_eq(setenv("NOTHING", "null", 1), 0);
    config = parse_good("workers: ${A_1}\n"
                        "priority: ${WORD}\n"
                        "core_dumps: ${YES}\n"
                        "aliases:\n"
                        "  - {name: \"${_b}\", model: 'm${A_1}${A_1}'}\n"
                        "  - {name: \"${NESTED}\", model: \"$${A_1}$ $x $$\"}\n"
                        "  - {name: \"${NOTHING}\", model: [\"\\u2028\\\"\\\\ \\U0001f404 "
                        "\\u0085\", \"\\ufeff#: b\"]}\n");
    cr_assert_eq(config->workers, 4);
    cr_assert_eq(config->priority, REQUEST_PRIORITY_BULK);
    cr_assert(config->core_dumps);
    cr_assert_not(config->admin.allow_remote);
    cr_assert_str_eq(config->aliases[0].name, "x}, admin: {allow_remote: true");
    cr_assert_str_eq(config->aliases[0].model, "m44");
    cr_assert_str_eq(config->aliases[1].name, "${A_1}");
    cr_assert_str_eq(config->aliases[1].model, "${A_1}$ $x $$");
    cr_assert_str_eq(config->aliases[2].name, "null");
    cr_assert_str_eq(config->aliases[2].model, "\xe2\x80\xa8\"\\ \xf0\x9f\x90\x84 \xc2\x85");
    cr_assert_str_eq(config->aliases[3].model, "\xef\xbb\xbf#: b");
    config_destroy(config);
}

/* Texts that libcyaml reads again keep every character. */
Test(expand, texts_of_structs_survive)
{
    struct config *config = parse_good("models:\n"
                                       "  - {name: \"a \\\" \\\\ \\u2029 \\u00e4 - # : {\"}\n");

    cr_assert_str_eq(config->models[0].name, "a \" \\ \xe2\x80\xa9 \xc3\xa4 - # : {");
    config_destroy(config);
}

Test(expand, a_variable_that_is_missing_or_wrong_is_named_with_its_place)
{
    char text[64];

    cr_assert_eq(unsetenv("MISSING"), 0);
    cr_assert_eq(setenv("EMPTY", "", 1), 0);
    cr_assert_eq(setenv("LINES", "s3cr3t\nb", 1), 0);
    cr_assert_eq(setenv("BYTES", "s3cr3t\xff", 1), 0);
    expect_bad("workers: 1\napi:\n  listen: ${MISSING}:1\n", "3:11",
               "the variable MISSING is not set");
    expect_bad("state_dir: /a/${MISSING\n", "1:12", "begins the name of a variable");
    expect_bad("state_dir: /a/${}\n", "1:12", "begins the name of a variable");
    expect_bad("state_dir: /a/${1A}\n", "1:12", "begins the name of a variable");
    expect_bad("state_dir: /a/${A-B}\n", "1:12", "begins the name of a variable");
    expect_bad("state_dir: ${EMPTY}\n", "1:12", "${EMPTY} is empty");
    expect_bad("state_dir: ${LINES}\n", "1:12", "control character");
    expect_bad("state_dir: ${BYTES}\n", "1:12", "not UTF-8");
    expect_bad("${EMPTY}: 1\n", "1:11", "unknown key");
    for (int i = 0; i < 2; i++) { /* first those that are reported one after the other */
        (void)snprintf(text, sizeof(text), "state_dir: ${MISSING}\nworkers: ${EMPTY}\n");
        expect_bad(text, "1:12", "MISSING");
    }
}

/* Wherever a value is wrong, what stands in the file is quoted. */
Test(expand, no_message_quotes_a_variable)
{
    static const struct {
        const char *text, *place, *reason;
    } bad[] = {
        {"workers: ${S}\n", "1:10", "not '${S}'"},
        {"workers: ${N}\n", "1:10", "not ${N}"},
        {"workers: ${BIG}\n", "1:10", "not ${BIG}"},
        {"core_dumps: ${S}\n", "1:13", "not '${S}'"},
        {"policy: ${S}\n", "1:9", "not '${S}'"},
        {"node_token_file: ${S}\n", "1:18", "cannot read '${S}'"},
        {"node_token_file: /tmp/${S}\n", "1:18", "cannot read '/tmp/${S}'"},
        {"node_token_file: ${DIR}\n", "1:18", "'${DIR}' is not a file"},
        {"api: {keys_file: \"${S}\"}\n", "1:18", "cannot read '${S}'"},
        {"api: {listen: \"${S}\"}\n", "1:15", "bad address '${S}'"},
        {"api: {listen: \"${URL}\"}\n", "1:15", "'${URL}' is a URL"},
        {"api: {listen: \"${AT}\"}\nadmin: {listen: \"${AT}\"}\n", "2:17",
         "${AT} is api.listen"},
        {"admin: {listen: \"${OUT}\"}\n", "1:17", "can reach ${OUT}"},
        {"api: {cors_origins: [\"${S}\"]}\n", "1:22", "'${S}'"},
        {"api: {tls: {cert: \"${S}\", key: k}}\n", "1:19", "cannot read '${S}'"},
        {"nodes: [{name: \"${S}!\", address: a:1}]\n", "1:16", "'${S}!'"},
        {"nodes: [{name: a, address: \"${S}\"}]\n", "1:28", "'${S}'"},
        {"nodes: [{name: \"${W}\", address: a:1}, {name: \"${W}\", address: a:2}]\n", "1:46",
         "called '${W}' already"},
        {"aliases: [{name: \"${W}\", model: \"${W}\"}]\n", "1:33",
         "'${W}' is an alias of itself"},
        {"models: [{name: \"${W}\"}, {name: \"${W}\"}]\n", "1:33", "is '${W}' already"},
        {"user: ${W}\n", "1:7", "'${W}'"},
        {"user: root\ngroup: ${W}\n", "2:8", "'${W}'"},
    };

    cr_assert_eq(setenv("S", "s3cr3t", 1), 0);
    cr_assert_eq(setenv("W", "s3cr3t-word", 1), 0);
    cr_assert_eq(setenv("N", "99999", 1), 0);
    cr_assert_eq(setenv("BIG", "99999999999999999999", 1), 0);
    cr_assert_eq(setenv("DIR", dir, 1), 0);
    cr_assert_eq(setenv("URL", "https://s3cr3t@s3cr3t:1/", 1), 0);
    cr_assert_eq(setenv("AT", "s3cr3t:1", 1), 0);
    cr_assert_eq(setenv("OUT", "s3cr3t.example:1", 1), 0);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        expect_bad(bad[i].text, bad[i].place, bad[i].reason);
}

Test(expand, a_url_where_an_address_is_wanted_is_understood_or_named)
{
    struct config *config =
        parse_good("api: {listen: \"HTTP://localhost:1/\"}\n"
                   "admin: {listen: \"http://[::1]:2\"}\n"
                   "nodes:\n"
                   "  - {name: a, address: \"http://tower:9090/\"}\n"
                   "  - {name: b, address: \"https://tower:9091\", tls: {}}\n");

    cr_assert_str_eq(config->api.address, "localhost:1");
    cr_assert_str_eq(config->admin.address, "[::1]:2");
    cr_assert_str_eq(config->nodes[0].address, "tower:9090");
    cr_assert_str_eq(config->nodes[1].address, "tower:9091");
    config_destroy(config);
    expect_bad("nodes: [{name: a, address: \"https://tower:1/\"}]\n", "1:28",
               "with TLS, which is off here; write tower:1 and switch TLS on");
    expect_bad("nodes: [{name: a, address: \"http://tower:1\", tls: {enabled: true}}]\n",
               "1:28", "without TLS, which is on here; write tower:1");
    expect_bad("api: {listen: \"http://desk/\"}\n", "1:15", "is a URL; write desk:PORT");
    expect_bad("api: {listen: \"http://[::1]\"}\n", "1:15", "is a URL; write [::1]:PORT");
    expect_bad("registry: {listen: \"http://desk:1/v1\"}\n", "1:20", "is a URL; write desk:1");
    expect_bad("registry: {listen: \"grpc://desk:1\"}\n", "1:20", "is a URL; write desk:1");
    expect_bad("registry: {listen: \"http://me:s3c/ret@desk:1/\"}\n", "1:20",
               "in its path; write HOST:PORT");
    expect_bad("registry: {listen: \"http://:1\"}\n", "1:20", "the host is missing");
}
