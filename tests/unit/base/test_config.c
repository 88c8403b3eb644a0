/* test_config.c - the configuration file: what it means, and what is said when it is wrong. */
#include "base/config/config.h"
#include "base/config/config_load.h"

#include <criterion/criterion.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "tests/unit/freed.h"

#define EXAMPLE DROVER_SOURCE_DIR "/docs/drover.example.yaml"

static char dir[] = "/tmp/drover-config-XXXXXX";

static void write_file(const char *name, const char *text, mode_t mode)
{
    char path[128];
    FILE *f;

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "w");
    cr_assert_not_null(f);
    (void)fputs(text, f);
    (void)fclose(f);
    cr_assert_eq(chmod(path, mode), 0);
}

/* Files that configs here name as DIR/name. */
static void make_files(void)
{
    cr_assert_not_null(mkdtemp(dir));
    write_file("token", "correct-horse-battery\n", 0600);
    write_file("tokens", "# two of them\r\n  new-token-1 \n\nold-token-1\n", 0640);
    write_file("three", "new-token-1\nold-token-1\nolder-token\n", 0600);
    write_file("empty", "\n\n", 0600);
    write_file("short", "abc\n", 0600);
    write_file("spaced", "two words here\n", 0600);
    write_file("open", "correct-horse-battery\n", 0644);
    write_file(
        "keys",
        "alice sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n",
        0640);
    write_file("openkeys", "", 0644);
    write_file("badkeys", "alice correct-horse-battery\n", 0600);
    write_file("cert", "", 0644);
    write_file("key", "", 0600);
}

static void remove_files(void)
{
    char command[64];

    (void)snprintf(command, sizeof(command), "rm -rf %s", dir);
    (void)!system(command);
}

/* Parses `text` after putting the directory where it says DIR. */
static int parse(struct config **out, const char *text, struct error *err)
{
    struct buf full = BUF_INIT;
    const char *at;
    int rc;

    while ((at = strstr(text, "DIR")) != NULL) {
        buf_add(&full, text, (size_t)(at - text));
        buf_str(&full, dir);
        text = at + 3;
    }
    buf_str(&full, text);
    rc = config_parse(out, (const char *)full.data, buf_size(&full), "test.yaml", err);
    buf_finish(&full);
    return rc;
}

TestSuite(config, .init = make_files, .fini = remove_files);

struct bad {
    const char *text;
    int line;
    const char *key;    /* as it stands in the message; "" = none */
    const char *reason; /* part of it */
};

static void expect_bad(const struct bad *bad, size_t n)
{
    struct config *config;
    struct error err;
    char start[96];

    for (size_t i = 0; i < n; i++) {
        err.text[0] = '\0';
        cr_assert_eq(parse(&config, bad[i].text, &err), DRV_EINVAL, "accepted: %s",
                     bad[i].text);
        cr_assert_null(config);
        (void)snprintf(start, sizeof(start), "test.yaml:%d:", bad[i].line);
        cr_assert_eq(strncmp(err.text, start, strlen(start)), 0, "line %d: %s\n%s", bad[i].line,
                     err.text, bad[i].text);
        if (bad[i].key[0] != '\0') {
            (void)snprintf(start, sizeof(start), ": %s: ", bad[i].key);
            cr_assert_not_null(strstr(err.text, start), "key %s: %s", bad[i].key, err.text);
        }
        cr_assert_not_null(strstr(err.text, bad[i].reason), "reason '%s': %s", bad[i].reason,
                           err.text);
        cr_assert_null(strchr(err.text, '\n'), "more than one line: %s", err.text);
        cr_assert_null(strstr(err.text, "horse"), "a token is shown: %s", err.text);
    }
}

Test(config, syntax_that_is_not_yaml_or_not_ours_is_refused)
{
    static const struct bad bad[] = {
        {"", 1, "", "empty"},
        {"# nothing\n\n", 1, "", "empty"},
        {"- a\n", 1, "", "keys with values"},
        {"text\n", 1, "", "keys with values"},
        {"\n\nworkers: [\n", 4, "", "expected"},
        {"api:\n\tlisten: x\n", 2, "", "tab"},
        {"workers: 1\n---\nworkers: 2\n", 2, "", "second document"},
        {"workers: 1\napi: &x\n  listen: a:1\n", 2, "", "anchors"},
        {"workers: 1\nadmin: *x\n", 2, "", "anchors"},
        {"aliases:\n- {name: *, model: m}\n", 2, "", "starts so in quotes"},
        {"aliases:\n- {name: claude,\n   model: &}\n", 3, "", "starts so in quotes"},
        {"a: &a [1,1]\nb: &b [*a,*a]\nc: &c [*b,*b]\n", 1, "", "anchors"},
        {"workers: !!int 2\n", 1, "", "tags"},
        {"? [a]\n: b\n", 1, "", "key"},
        {"x: [[[[[[[[[[1]]]]]]]]]]\n", 1, "", "nested deeper"},
        {"workers: 1\n\"a\\0b\": 1\n", 2, "", "NUL"},
        {"workers: 1\napi:\n  listen: \xff\xfe\n", 3, "", "not a text file"},
        {"workers: \x01\n", 1, "", "not a text file"},
        {"workers: 1\n  api: x\n", 2, "", "not allowed"},
    };

    expect_bad(bad, ARRAY_LEN(bad));
}

Test(config, unknown_and_repeated_keys_are_named)
{
    static const struct bad bad[] = {
        {"wrokers: 2\n", 1, "wrokers", "unknown key; did you mean 'workers'?"},
        {"workers: 2\napi:\n  lisen: a:1\n", 3, "api.lisen", "did you mean 'listen'?"},
        {"zzzzzz: 2\n", 1, "zzzzzz", "unknown key"},
        {"<<: {a: 1}\n", 1, "<<", "unknown key"},
        {"workers: 2\nworkers: 3\n", 2, "workers", "twice"},
        {"nodes:\n  - name: a\n    address: h:1\n    adress: h:2\n", 4, "nodes[0].adress",
         "did you mean 'address'?"},
        {"admin: {tls: {cert: x}}\n", 1, "admin.tls.cert", "needs its 'key'"},
        {"admin:\n  listen: 0.0.0.0:80\n", 2, "admin.listen", "other machines can reach"},
        {"admin:\n  listen: '[::]:80'\n", 2, "admin.listen", "other machines can reach"},
        {"admin:\n  listen: 127.0.0.1.example.com:80\n", 2, "admin.listen", "other machines"},
        {"admin:\n  listen: 0.0.0.0:80\n  tls: {cert: DIR/cert, key: DIR/key}\n", 2,
         "admin.listen", "demand certificates"},
        {"api: {tls: {server_name: x}}\n", 1, "api.tls.server_name", "unknown key"},
    };

    expect_bad(bad, ARRAY_LEN(bad));
}

Test(config, wrong_types_are_named)
{
    static const struct bad bad[] = {
        {"workers: many\n", 1, "workers", "whole number, not 'many'"},
        {"workers: 2.5\n", 1, "workers", "whole number"},
        {"workers: 12abc\n", 1, "workers", "whole number"},
        {"workers: 0x10\n", 1, "workers", "whole number"},
        {"workers: 010\n", 1, "workers", "whole number"},
        {"workers: [2]\n", 1, "workers", "single value, not a list"},
        {"workers: {a: 2}\n", 1, "workers", "single value, not a group"},
        {"workers:\n", 1, "workers", "missing"},
        {"limits: 3\n", 1, "limits", "keys with values"},
        {"\nlimits:\n", 2, "limits", "keys with values"},
        {"nodes: {}\n", 1, "nodes", "list"},
        {"nodes: [x]\n", 1, "nodes[0]", "keys with values"},
        {"allow_half_close: maybe\n", 1, "allow_half_close", "true or false"},
        {"allow_half_close: yes\n", 1, "allow_half_close", "true or false"},
        {"runtime_dir: null\n", 1, "runtime_dir", "leave the key out"},
        {"runtime_dir: ''\n", 1, "runtime_dir", "missing"},
        {"log:\n  level: loud\n", 2, "log.level", "error, warn, info, debug; not 'loud'"},
        {"policy: magic\n", 1, "policy", "one of fastest, least_conn, round_robin, random2"},
        {"runtime_dir: \"/a\\nb\"\n", 1, "runtime_dir", "control character"},
    };

    expect_bad(bad, ARRAY_LEN(bad));
}

Test(config, numbers_out_of_range_are_named_with_their_range)
{
    static const struct bad bad[] = {
        {"workers: 0\n", 1, "workers", "from 1 to 64, not 0"},
        {"workers: 65\n", 1, "workers", "from 1 to 64, not 65"},
        {"workers: -1\n", 1, "workers", "from 1 to 64, not -1"},
        {"workers: 99999999999999999999999\n", 1, "workers", "from 1 to 64"},
        {"workers: 4294967297\n", 1, "workers", "from 1 to 64"},
        {"limits:\n  max_nodes: 8\n  max_body_bytes: 134217729\n", 3, "limits.max_body_bytes",
         "from 1024 to 134217728"},
        {"limits:\n  max_body_bytes: 8192\n  max_body_total_bytes: 4096\n", 3,
         "limits.max_body_total_bytes", "less than max_body_bytes"},
        {"limits:\n  max_answer_bytes: 4294967296\n", 2, "limits.max_answer_bytes",
         "from 0 to 4294967295"},
        {"nodes:\n- {name: a, address: 'h:1', queue: -2}\n", 2, "nodes[0].queue",
         "from -1 to 65535"},
        {"nodes:\n- {name: a, address: 'h:1', weight: 0}\n", 2, "nodes[0].weight",
         "from 1 to 1000"},
        {"registry:\n  lease_ms: 1000\n  heartbeat_ms: 600\n", 2, "registry.lease_ms",
         "less than twice"},
    };

    expect_bad(bad, ARRAY_LEN(bad));
}

Test(config, bad_addresses_are_named_with_the_reason)
{
    static const struct bad bad[] = {
        {"api:\n  listen: nowhere\n", 2, "api.listen", "the port is missing"},
        {"api:\n  listen: 127.0.0.1:99999\n", 2, "api.listen", "from 0 to 65535"},
        {"admin:\n  listen: ::1:80\n", 2, "admin.listen", "brackets"},
        {"api: {listen: 'h:80'}\nadmin: {listen: 'H:80'}\n", 2, "admin.listen", "api.listen's"},
        {"workers: 1\napi: {listen: '127.0.0.1:8081'}\n", 1, "", "api.listen's address"},
        {"nodes:\n  - name: a\n    address: h:0\n", 3, "nodes[0].address", "cannot be 0"},
        {"nodes:\n  - name: a\n    address: h\n", 3, "nodes[0].address", "port is missing"},
        {"runtime_dir: "
         "an/unusually/long/name/for/a/directory/that/has/to/be/in/the/address/of/a/"
         "unix/socket\n",
         1, "runtime_dir", "at most 90 bytes"},
    };

    expect_bad(bad, ARRAY_LEN(bad));
}

Test(config, bad_nodes_are_named)
{
    static const struct bad bad[] = {
        {"nodes:\n  - name: a\n", 2, "nodes[0]", "'address' is missing"},
        {"nodes:\n  - name: a b\n    address: h:1\n", 2, "nodes[0].name", "bad node name"},
        {"nodes:\n  - name: \xc3\xa9\n    address: h:1\n", 2, "nodes[0].name", "bad node name"},
        {"nodes:\n  - name: "
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"
         "    address: h:1\n",
         2, "nodes[0].name", "1 to 63"},
        {"nodes:\n  - name: a\n    address: h:1\n  - name: a\n    address: h:2\n", 4,
         "nodes[1].name", "nodes[0] is called 'a'"},
        {"nodes:\n  - name: a\n    address: h:1\n  - name: b\n    address: H:1\n", 5,
         "nodes[1].address", "nodes[0] has the address"},
        {"limits: {max_nodes: 1}\nnodes:\n- {name: a, address: 'h:1'}\n- {name: b, address: "
         "'h:2'}\n",
         2, "nodes", "max_nodes allows 1"},
        {"nodes:\n- name: a\n  address: h:1\n  tls:\n    cert: DIR/cert\n", 5,
         "nodes[0].tls.cert", "needs its 'key'"},
        {"nodes:\n- name: a\n  address: h:1\n  tls:\n    ca: DIR/none\n", 5, "nodes[0].tls.ca",
         "No such file"},
    };

    expect_bad(bad, ARRAY_LEN(bad));
}

/* The models behind a name, joined by spaces; "" = there are none. */
static const char *models_of(const struct config_alias *alias, unsigned models)
{
    static char out[128];

    out[0] = '\0';
    for (unsigned i = 0; alias != NULL && i < models; i++) {
        (void)strlcat(out, i == 0 ? "" : " ", sizeof(out));
        (void)strlcat(out, alias[i].model, sizeof(out));
    }
    return out;
}

Test(config, an_alias_has_one_model_or_several)
{
    static const char text[] = "aliases:\n"
                               "- {name: one, model: m}\n"
                               "- name: llama3\n"
                               "  model: [\"llama3:8b\", llama3, b.gguf]\n"
                               "- name: 'claude-*'\n"
                               "  model:\n"
                               "  - big\n"
                               "- {name: claude-haiku-*, model: [small, tiny]}\n"
                               "- {name: claude-opus, model: huge}\n"
                               "- {name: '*', model: any}\n"
                               "models: [{name: llama3, policy: random2}]\n";
    static const char *const wild[][2] = {
        {"claude-x", "big"},     {"claude-", "big"}, {"claude-haiku-4", "small tiny"},
        {"claude-haiku", "big"}, {"claude", "any"},  {"", "any"}};
    struct config *config;
    struct error err = {0};
    unsigned models = 0;

    cr_assert_eq(parse(&config, text, &err), 0, "%s", err.text);
    cr_expect_eq(config->aliases_count, 9);
    cr_expect_str_eq(models_of(config_find_alias(config, "one", &models), models), "m");
    cr_expect_str_eq(models_of(config_find_alias(config, "llama3", &models), models),
                     "llama3:8b llama3 b.gguf");
    cr_expect_str_eq(models_of(config_find_alias(config, "claude-opus", &models), models),
                     "huge");
    cr_expect_null(config_find_alias(config, "claude-x", &models));
    for (size_t i = 0; i < ARRAY_LEN(wild); i++)
        cr_expect_str_eq(models_of(config_find_wildcard(config, wild[i][0], &models), models),
                         wild[i][1], "%s", wild[i][0]);
    cr_expect_eq(config_policy_for(config, "llama3"), POLICY_RANDOM2);
    config_destroy(config);
}

Test(config, names_in_each_others_way_are_warned_of)
{
    static const char text[] =
        "aliases:\n"
        "- {name: '*', model: any}\n"
        "- {name: claude-haiku-*, model: [small, tiny, 'small:latest']}\n"
        "- {name: claude-*, model: big}\n"
        "- {name: gpt, model: big}\n"
        "- {name: 'gpt:latest', model: big}\n";
    static const char want[] =
        "alias 'claude-haiku-*': 'small' and 'small:latest' are one model\n"
        "aliases 'gpt' and 'gpt:latest' differ by a tag that clients leave out\n";
    struct buf out = BUF_INIT;
    struct config *config;
    struct error err = {0};

    cr_assert_eq(parse(&config, text, &err), 0, "%s", err.text);
    config_warnings(config, &out);
    cr_expect_str_eq(buf_cstr(&out), want);
    buf_finish(&out);
    config_destroy(config);
}

Test(config, bad_aliases_and_models_are_named)
{
    static const struct bad bad[] = {
        {"aliases:\n- {name: a, model: []}\n", 2, "aliases[0].model", "the list is empty"},
        {"aliases:\n- {name: a, model: [m, n, m]}\n", 2, "aliases[0].model[2]",
         "'m' is in the list already"},
        {"aliases:\n- {name: a, model: [a]}\n", 2, "aliases[0].model[0]", "alias of itself"},
        {"aliases:\n- {name: a, model: [m, b]}\n- {name: b, model: m}\n", 2,
         "aliases[0].model[1]", "itself an alias"},
        {"aliases:\n- {name: a, model: {b: c}}\n", 2, "aliases[0].model",
         "the name of a model, or a list"},
        {"aliases:\n- {name: a, model: [[b]]}\n", 2, "aliases[0].model[0]",
         "the name of a model, or a list"},
        {"aliases:\n- {name: a, model: [m, '']}\n", 2, "aliases[0].model[1]", "missing"},
        {"aliases:\n- {name: a, model: ''}\n", 2, "aliases[0].model", "missing"},
        {"aliases:\n- {name: a*b, model: m}\n", 2, "aliases[0].name", "the last character"},
        {"aliases:\n- {name: a**, model: m}\n", 2, "aliases[0].name", "the last character"},
        {"aliases:\n- {name: a*, model: 'm*'}\n", 2, "aliases[0].model", "is no model"},
        {"aliases: x\n", 1, "aliases", "must be a list"},
        {"aliases: [x]\n", 1, "aliases[0]", "must be keys"},
        {"aliases:\n- {name: a, model: m, modle: n}\n", 2, "aliases[0].modle",
         "did you mean 'model'"},
        {"aliases:\n- {name: a, model: a}\n", 2, "aliases[0].model", "alias of itself"},
        {"aliases:\n- {name: a, model: m}\n- {name: a, model: n}\n", 3, "aliases[1].name",
         "aliases[0] is called 'a'"},
        {"aliases:\n- {name: a, model: b}\n- {name: b, model: m}\n", 2, "aliases[0].model",
         "itself an alias"},
        {"aliases:\n- {name: a}\n", 2, "aliases[0]", "'model' is missing"},
        {"models:\n- {policy: random2}\n", 2, "models[0]", "'name' is missing"},
        {"models:\n- {name: m, priority: 7}\n", 2, "models[0].priority",
         "one of default, interactive, bulk"},
        {"priority: urgent\n", 1, "priority", "one of default, interactive, bulk"},
        {"models:\n- {name: m, hedge: {budget_pct: 101}}\n", 2, "models[0].hedge.budget_pct",
         "101"},
        {"models:\n- {name: m, queue: {max_waiting: 1000001}}\n", 2,
         "models[0].queue.max_waiting", "1000001"},
        {"models:\n- {name: m, hedge: true}\n", 2, "models[0].hedge", "must be keys"},
        {"models:\n- {name: m, policy: least_conn}\n- {name: m, policy: round_robin}\n", 3,
         "models[1].name", "models[0] is 'm'"},
        {"aliases: [{name: a, model: m}]\nmodels: [{name: a, policy: round_robin}]\n", 2,
         "models[0].name", "is an alias"},
    };

    expect_bad(bad, ARRAY_LEN(bad));
}

/* The operator writes the key itself where its digest belongs. */
Test(config, a_key_in_a_keys_file_is_gone_from_memory_that_is_freed)
{
    struct config *config;
    struct error err = {0};

    freed_secret = "correct-horse-battery";
    cr_assert_eq(parse(&config, "api: {keys_file: DIR/badkeys}\n", &err), DRV_EINVAL);
    cr_assert_eq(parse(&config, "registry: {token_file: DIR/token}\n", &err), 0);
    config_destroy(config);
    freed_secret = NULL;
    cr_assert_eq(freed_with_secret, 0);
}

Test(config, files_that_are_missing_empty_or_open_to_all_are_named)
{
    static const struct bad bad[] = {
        {"workers: 1\nregistry:\n  listen: h:1\n", 2, "registry", "'token_file' is missing"},
        {"registry:\n  listen: h:1\n  token_file: DIR/none\n", 3, "registry.token_file",
         "No such file"},
        {"registry:\n  token_file: DIR/empty\n", 2, "registry.token_file", "is empty"},
        {"registry:\n  token_file: DIR/open\n", 2, "registry.token_file", "chmod 600"},
        {"registry:\n  token_file: DIR/short\n", 2, "registry.token_file", "token 1 is not"},
        {"registry:\n  token_file: DIR/spaced\n", 2, "registry.token_file", "without spaces"},
        {"registry:\n  token_file: DIR/three\n", 2, "registry.token_file", "more than two"},
        {"registry:\n  token_file: DIR\n", 2, "registry.token_file", "not a file"},
        {"registry:\n  token_file: /dev/zero\n", 2, "registry.token_file", "not a file"},
        {"api: {keys_file: DIR/none}\n", 1, "api.keys_file", "No such file"},
        {"api: {keys_file: DIR/openkeys}\n", 1, "api.keys_file", "chmod 600"},
        {"api: {keys_file: DIR/empty}\n", 1, "api.keys_file", "holds no key"},
        {"api: {keys_file: DIR/badkeys}\n", 1, "api.keys_file", "line 1: after the name"},
        {"api:\n  cors_origins: [loopback, chat.lan]\n", 2, "api.cors_origins[1]",
         "'chat.lan': an origin is SCHEME://HOST"},
        {"api:\n  trusted_proxies: [10.0.0.0/8, balancer.lan]\n", 2, "api.trusted_proxies[1]",
         "'balancer.lan': an entry is ADDRESS"},
        {"api:\n  cors_origins: https://a\n", 2, "api.cors_origins", "must be a list"},
        {"node_token_file: DIR/none\n", 1, "node_token_file", "No such file"},
        {"registry: {token_file: DIR/token}\nnode_token_file: DIR/tokens\n", 2,
         "node_token_file", "leave it out"},
        {"api:\n  tls:\n    cert: DIR/cert\n", 3, "api.tls.cert", "needs its 'key'"},
        {"api:\n  tls:\n    key: DIR/key\n", 3, "api.tls.key", "needs its 'cert'"},
        {"api:\n  tls: {}\n", 2, "api.tls", "needs 'cert' and 'key'"},
        {"api:\n  tls:\n    cert: DIR/none\n    key: DIR/key\n", 3, "api.tls.cert",
         "No such file"},
        {"registry:\n  tls: {ca: DIR/cert}\n", 2, "registry.tls", "needs 'cert' and 'key'"},
    };

    expect_bad(bad, ARRAY_LEN(bad));
}

Test(config, defaults_are_those_of_the_reference)
{
    struct config *config;
    struct error err;

    cr_assert_eq(parse(&config, "workers: 3\n", &err), 0, "%s", err.text);
    cr_assert_eq(config->workers, 3);
    cr_assert_str_eq(config->api.address, "127.0.0.1:8080");
    cr_assert_str_eq(config->admin.address, "127.0.0.1:8081");
    cr_assert_null(config->registry.listen.address);
    cr_assert_eq(config->registry.lease_ms, 10000);
    cr_assert_eq(config->registry.heartbeat_ms, 2000);
    cr_assert_eq(config->log_level, LOG_LEVEL_INFO);
    cr_assert_null(config->log_file);
    cr_assert_null(config->access_log);
    cr_assert_eq(config->policy, POLICY_FASTEST);
    cr_assert_eq(config->prefix.entries, 262144);
    cr_assert_eq(config->prefix.window_bytes, 1024);
    cr_assert_eq(config->shutdown_delay_ms, 0);
    cr_assert_eq(config->shutdown_grace_ms, 30000);
    cr_assert_not(config->allow_half_close);
    cr_assert_eq(config->limits.max_connections, 8192);
    cr_assert_eq(config->limits.max_per_client, 0);
    cr_assert_eq(config->limits.max_nodes, 256);
    cr_assert_eq(config->limits.max_body_bytes, 67108864);
    cr_assert_eq(config->limits.max_body_total_bytes, 536870912);
    cr_assert_eq(config->limits.max_answer_bytes, 536870912);
    cr_assert_eq(config->limits.worker_memory_bytes, UINT32_C(2147483648));
    cr_assert_eq(config->limits.request_timeout_ms, 3600000);
    cr_assert_eq(config->limits.header_timeout_ms, 30000);
    cr_assert_eq(config->limits.idle_timeout_ms, 75000);
    cr_assert_eq(config->limits.write_stall_ms, 30000);
    cr_assert_eq(config->limits.load_ms, 900000);
    cr_assert_eq(config->limits.first_token_ms, 600000);
    cr_assert_eq(config->limits.idle_token_ms, 300000);
    cr_assert_eq(config->limits.connect_timeout_ms, 3000);
    cr_assert_eq(config->limits.max_attempts, 3);
    cr_assert_eq(config->queue.max_waiting, 1024);
    cr_assert_eq(config->queue.max_wait_ms, 300000);
    cr_assert_eq(config->health.interval_ms, 2000);
    cr_assert_eq(config->health.timeout_ms, 1000);
    cr_assert_eq(config->health.rise, 2);
    cr_assert_eq(config->health.fall, 2);
    cr_assert_eq(config->health.eject_failures, 5);
    cr_assert_eq(config->health.eject_success_pct, 80);
    cr_assert_eq(config->health.eject_min_requests, 5);
    cr_assert_eq(config->health.eject_window_ms, 30000);
    cr_assert_eq(config->health.eject_backoff_ms, 5000);
    cr_assert_eq(config->health.eject_backoff_max_ms, 300000);
    cr_assert_eq(config->health.resolve_ms, 30000);
    cr_assert_eq(config->health.flap_wait_ms, 10000);
    cr_assert_eq(config->health.ramp_ms, 30000);
    cr_assert_eq(config->testing.speedup, 1);
    cr_assert_eq(config->hold_ms, 1000);
    cr_assert_eq(config->nodes_count + config->aliases_count + config->models_count, 0);
    cr_assert_null(config->tokens[0]);
    config_destroy(config);
}

Test(config, every_value_arrives_where_it_belongs)
{
    static const char text[] =
        "workers: 4\n"
        "api: {listen: '[::1]:1', tls: {cert: DIR/cert, key: DIR/key, ca: DIR/cert},\n"
        "      keys_file: DIR/keys, cors_origins: ['https://a.example', 'app://*']}\n"
        "admin: {listen: 'unix:/tmp/x.sock'}\n"
        "registry:\n"
        "  listen: 0.0.0.0:2\n"
        "  token_file: DIR/tokens\n"
        "  lease_ms: 5000\n"
        "  heartbeat_ms: 500\n"
        "runtime_dir: /tmp/r\n"
        "log: {level: debug, file: /tmp/f, access: '-'}\n"
        "policy: round_robin\n"
        "shutdown_grace_ms: 0\n"
        "allow_half_close: true\n"
        "limits: {max_connections: 65536, max_attempts: 1}\n"
        "testing: {speedup: 15}\n"
        "nodes:\n"
        "- {name: a, address: 'a:1'}\n"
        "- name: B.b_b-1\n"
        "  address: '[::1]:2'\n"
        "  slots: 4\n"
        "  weight: 200\n"
        "  queue: 0\n"
        "  tls: {server_name: b.lan}\n"
        "- {name: c, address: 'c:3', tls: {enabled: false, ca: /none}}\n"
        "aliases: [{name: gpt, model: qwen}]\n"
        "priority: interactive\n"
        "models: [{name: embed, policy: least_conn}, {name: night, priority: bulk}]\n";
    struct config *config;
    unsigned models;
    struct error err;

    cr_assert_eq(parse(&config, text, &err), 0, "%s", err.text);
    cr_assert_str_eq(config->api.address, "[::1]:1");
    cr_assert(config->api.tls.enabled);
    cr_assert_not_null(config->api.tls.cert);
    cr_assert_str_eq(config->admin.address, "unix:/tmp/x.sock");
    cr_assert_str_eq(config->registry.listen.address, "0.0.0.0:2");
    cr_assert_not(config->registry.listen.tls.enabled);
    cr_assert_eq(config->registry.lease_ms, 5000);
    cr_assert_eq(config->registry.heartbeat_ms, 500);
    cr_assert_eq(config->api.keys.count, 1);
    cr_assert_str_eq(config->api.keys.list[0].name, "alice");
    cr_assert_eq(config->api.cors_origins_count, 2);
    cr_assert_str_eq(config->api.cors_origins[0], "https://a.example");
    cr_assert_str_eq(config->api.cors_origins[1], "app://*");
    cr_assert_str_eq(config->tokens[0], "new-token-1");
    cr_assert_str_eq(config->tokens[1], "old-token-1");
    cr_assert_eq(config->log_level, LOG_LEVEL_DEBUG);
    cr_assert_str_eq(config->log_file, "/tmp/f");
    cr_assert_str_eq(config->access_log, "-");
    cr_assert_eq(config->policy, POLICY_ROUND_ROBIN);
    cr_assert_eq(config->shutdown_grace_ms, 0);
    cr_assert(config->allow_half_close);
    cr_assert_eq(config->limits.max_connections, 65536);
    cr_assert_eq(config->limits.max_attempts, 1);
    cr_assert_eq(config->testing.speedup, 15);
    cr_assert_eq(config->limits.max_nodes, 256);
    cr_assert_eq(config->nodes_count, 3);
    cr_assert_eq(config->nodes[0].weight, 100);
    cr_assert_eq(config->nodes[0].queue, -1);
    cr_assert_eq(config->nodes[0].slots, 0);
    cr_assert_not(config->nodes[0].tls.enabled);
    cr_assert_str_eq(config->nodes[1].name, "B.b_b-1");
    cr_assert_eq(config->nodes[1].slots, 4);
    cr_assert_eq(config->nodes[1].weight, 200);
    cr_assert_eq(config->nodes[1].queue, 0);
    cr_assert(config->nodes[1].tls.enabled);
    cr_assert_str_eq(config->nodes[1].tls.server_name, "b.lan");
    cr_assert_not(config->nodes[2].tls.enabled);
    cr_assert_str_eq(config_find_alias(config, "gpt", &models)->model, "qwen");
    cr_assert_str_eq(config_find_alias(config, "gpt:latest", &models)->model, "qwen");
    cr_assert_null(config_find_alias(config, "qwen", &models));
    cr_assert_eq(config_policy_for(config, "embed"), POLICY_LEAST_CONN);
    cr_assert_eq(config_policy_for(config, "night"), POLICY_ROUND_ROBIN);
    cr_assert_eq(config_policy_for(config, "other"), POLICY_ROUND_ROBIN);
    cr_assert_eq(config_priority_for(config, "embed"), REQUEST_PRIORITY_INTERACTIVE);
    cr_assert_eq(config_priority_for(config, "night"), REQUEST_PRIORITY_BULK);
    cr_assert_eq(config_priority_for(config, "other"), REQUEST_PRIORITY_INTERACTIVE);
    cr_assert_eq(config_priority_for(config, "Night:latest"), REQUEST_PRIORITY_BULK);
    cr_assert_eq(config_priority_for(config, "night:7b"), REQUEST_PRIORITY_INTERACTIVE);
    config_destroy(config);
}

Test(config, the_admin_listener_is_open_to_others_only_where_that_is_said)
{
    static const char *const good[] = {
        "admin: {listen: 'localhost:80'}\n",
        "admin: {listen: '127.8.0.1:80'}\n",
        "admin: {listen: '[::1]:80'}\n",
        "admin: {listen: 'unix:/tmp/a.sock'}\n",
        "admin: {listen: '0.0.0.0:80', allow_remote: true}\n",
        "admin: {listen: '0.0.0.0:80', tls: {cert: DIR/cert, key: DIR/key, ca: DIR/cert}}\n",
    };

    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        struct config *config;
        struct error err;

        cr_expect_eq(parse(&config, good[i], &err), 0, "%s: %s", good[i], err.text);
        config_destroy(config);
    }
}

Test(config, the_nodes_token_serves_when_there_is_no_registry)
{
    struct config *config;
    struct error err;

    cr_assert_eq(parse(&config, "node_token_file: DIR/token\n", &err), 0, "%s", err.text);
    cr_assert_str_eq(config->tokens[0], "correct-horse-battery");
    cr_assert_null(config->tokens[1]);
    config_destroy(config);
}

Test(config, several_listeners_may_ask_for_any_port)
{
    struct config *config;
    struct error err;

    cr_assert_eq(
        parse(&config, "api: {listen: '127.0.0.1:0'}\nadmin: {listen: '127.0.0.1:0'}\n", &err),
        0, "%s", err.text);
    config_destroy(config);
}

Test(config, settings_that_a_reload_cannot_change_are_named)
{
    static const struct {
        const char *text, *key;
    } changes[] = {
        {"workers: 9\npolicy: round_robin\nnodes: []\nshutdown_grace_ms: 1\n", NULL},
        {"runtime_dir: /tmp/other\n", "runtime_dir"},
        {"state_dir: /tmp/other\n", "state_dir"},
        {"api: {listen: 'h:5'}\n", "api.listen"},
        {"admin: {listen: '127.0.0.1:5'}\n", "admin.listen"},
        {"core_dumps: true\n", "core_dumps"},
        {"registry: {listen: 'h:5', token_file: DIR/token}\n", "registry.listen"},
        {"limits: {max_nodes: 3}\n", "limits.max_nodes"},
        {"limits: {max_connections: 3}\n", "limits.max_connections"},
    };
    struct config *now, *next;
    const char *key;

    cr_assert_eq(parse(&now, "workers: 1\n", NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
        cr_assert_eq(parse(&next, changes[i].text, NULL), 0, "%s", changes[i].text);
        key = config_not_reloadable(now, next);
        if (changes[i].key == NULL)
            cr_assert_null(key, "%s", key);
        else
            cr_assert(key != NULL && strcmp(key, changes[i].key) == 0, "%s", changes[i].text);
        config_destroy(next);
    }
    config_destroy(now);
}

Test(config, the_place_of_a_setting_is_its_value_or_what_is_around_it)
{
    static const char text[] = "workers: 1\nlimits:\n  max_nodes: 3\n";
    static const struct {
        const char *key;
        uint32_t line, column;
    } places[] = {
        {"workers", 1, 10},
        {"limits.max_nodes", 3, 14},
        {"limits.max_connections", 2, 1},
        {"admin.listen", 1, 1},
    };
    uint32_t line, column;

    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        config_place(text, sizeof(text) - 1, places[i].key, &line, &column);
        cr_expect_eq(line, places[i].line, "%s: %u", places[i].key, line);
        cr_expect_eq(column, places[i].column, "%s: %u", places[i].key, column);
    }
}

Test(config, a_file_that_cannot_be_read_is_named)
{
    struct config *config;
    struct error err;

    cr_assert_eq(config_load(&config, "/nonexistent/drover.yaml", &err), DRV_ENOENT);
    cr_assert_str_eq(err.text, "/nonexistent/drover.yaml: No such file or directory");
    cr_assert_eq(config_load(&config, dir, &err), DRV_ESYS);
    cr_assert_eq(config_load(&config, "/dev/zero", &err), DRV_EINVAL);
    cr_assert_not_null(strstr(err.text, "larger than 1 MiB"), "%s", err.text);
}

Test(config, the_example_is_good)
{
    struct config *config;
    struct error err;

    cr_assert_eq(config_load(&config, EXAMPLE, &err), 0, "%s", err.text);
    cr_assert_eq(config->nodes_count, 2);
    cr_assert_str_eq(config->nodes[1].name, "tower");
    config_destroy(config);
}

Test(config, documents_built_to_be_slow_are_refused_quickly)
{
    struct buf text = BUF_INIT;
    struct config *config;
    struct error err;

    for (int i = 0; i < 400000; i++)
        buf_str(&text, "[");
    cr_assert_eq(config_parse(&config, (char *)text.data, buf_size(&text), "t", &err),
                 DRV_EINVAL);
    buf_reset(&text);
    buf_str(&text, "nodes: [");
    for (int i = 0; i < 300000; i++)
        buf_str(&text, "1,");
    buf_str(&text, "1]");
    cr_assert_eq(config_parse(&config, (char *)text.data, buf_size(&text), "t", &err),
                 DRV_EINVAL);
    cr_assert_not_null(strstr(err.text, "more than 65536 values"), "%s", err.text);
    buf_reset(&text);
    buf_str(&text, "workers: '");
    for (int i = 0; i < 900000; i++)
        buf_str(&text, "a");
    buf_str(&text, "'");
    cr_assert_eq(config_parse(&config, (char *)text.data, buf_size(&text), "t", &err),
                 DRV_EINVAL);
    cr_assert_lt(strlen(err.text), 200, "%s", err.text);
    buf_finish(&text);
}

/* xorshift64: the same mutations in every run. */
static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void mutate(char *text, size_t *n, size_t cap, uint64_t *seed)
{
    static const char odd[] = "\t\n :-[]{}&*!|>'\"%@`#,?\\\x01\x7f\xc3\xff~<=09.";
    size_t at = (size_t)(random_next(seed) % (*n + 1));
    size_t len = (size_t)(random_next(seed) % 24) + 1;

    switch (random_next(seed) % 5) {
    case 0: /* another byte */
        if (at < *n)
            text[at] = odd[random_next(seed) % (sizeof(odd) - 1)];
        break;
    case 1: /* a few bytes less */
        if (at + len <= *n) {
            memmove(text + at, text + at + len, *n - at - len);
            *n -= len;
        }
        break;
    case 2: /* a few bytes twice */
        if (at + len <= *n && *n + len <= cap) {
            memmove(text + at + len, text + at, *n - at);
            *n += len;
        }
        break;
    case 3: /* the end is missing */
        if (random_next(seed) % 4 == 0)
            *n = at;
        break;
    default: /* a byte more */
        if (*n < cap) {
            memmove(text + at + 1, text + at, *n - at);
            text[at] = odd[random_next(seed) % (sizeof(odd) - 1)];
            ++*n;
        }
        break;
    }
}

Test(config, every_mutation_of_the_example_is_good_or_gets_one_line_with_its_place)
{
    struct buf example = BUF_INIT;
    char text[8192];
    uint64_t seed = UINT64_C(0x9e3779b97f4a7c15);
    unsigned good = 0, refused = 0;

    cr_assert_eq(config_read(&example, EXAMPLE, NULL), 0);
    cr_assert_lt(buf_size(&example), sizeof(text) / 2);
    for (unsigned i = 0; i < 4000; i++) {
        size_t n = buf_size(&example);
        struct config *config = NULL;
        struct error err = {.text = ""};
        unsigned line, column;

        memcpy(text, example.data, n);
        for (uint64_t m = random_next(&seed) % 4 + 1; m > 0; m--)
            mutate(text, &n, sizeof(text), &seed);
        if (config_parse(&config, text, n, "m.yaml", &err) == 0) {
            good++;
            config_destroy(config);
            continue;
        }
        refused++;
        cr_assert_null(config);
        cr_assert_eq(sscanf(err.text, "m.yaml:%u:%u: ", &line, &column), 2, "%s", err.text);
        for (const char *p = err.text; *p != '\0'; p++)
            cr_assert(isprint((unsigned char)*p), "mutation %u: %s", i, err.text);
    }
    /* Both must happen often, or the mutations test nothing. */
    cr_assert_gt(good, 200);
    cr_assert_gt(refused, 1000);
    buf_finish(&example);
}

static void expect_hedge(const struct config *config, const char *model, bool enabled,
                         uint32_t budget_pct, uint32_t floor_ms, uint32_t min_samples)
{
    const struct config_hedge *hedge = config_hedge_for(config, model);

    cr_assert_eq(hedge->enabled, enabled, "%s", model);
    cr_assert_eq(hedge->budget_pct, budget_pct, "%s: %u", model, hedge->budget_pct);
    cr_assert_eq(hedge->floor_ms, floor_ms, "%s: %u", model, hedge->floor_ms);
    cr_assert_eq(hedge->min_samples, min_samples, "%s: %u", model, hedge->min_samples);
}

Test(config, hedging_is_off_and_a_model_takes_what_it_does_not_say_from_all)
{
    struct config *config;
    struct error err;

    cr_assert_eq(parse(&config, "models: [{name: a}, {name: b, hedge: {floor_ms: 7}}]\n", &err),
                 0, "%s", err.text);
    expect_hedge(config, "other", false, 5, 100, 20);
    expect_hedge(config, "a", false, 5, 100, 20);
    expect_hedge(config, "b", true, 5, 7, 20);
    cr_assert_eq(config_policy_for(config, "a"), POLICY_FASTEST);
    config_destroy(config);
    cr_assert_eq(parse(&config,
                       "hedge: {budget_pct: 2, min_samples: 50}\n"
                       "policy: random2\n"
                       "models:\n"
                       "- {name: a, hedge: {enabled: false}}\n"
                       "- {name: b, hedge: {budget_pct: 10}}\n",
                       &err),
                 0, "%s", err.text);
    expect_hedge(config, "other", true, 2, 100, 50);
    expect_hedge(config, "a", false, 2, 100, 50);
    expect_hedge(config, "b", true, 10, 100, 50);
    cr_assert_eq(config_policy_for(config, "a"), POLICY_RANDOM2);
    config_destroy(config);
}

static void expect_queue(const struct config *config, const char *model, uint32_t max_waiting,
                         uint32_t max_wait_ms, uint32_t comment_after_ms)
{
    const struct config_queue *queue = config_queue_for(config, model);

    cr_assert_eq(queue->max_waiting, max_waiting, "%s: %u", model, queue->max_waiting);
    cr_assert_eq(queue->max_wait_ms, max_wait_ms, "%s: %u", model, queue->max_wait_ms);
    cr_assert_eq(queue->comment_after_ms, comment_after_ms, "%s", model);
}

Test(config, a_model_may_have_a_queue_of_its_own_length)
{
    struct config *config;
    struct error err;

    cr_assert_eq(parse(&config,
                       "queue: {max_wait_ms: 5000}\n"
                       "models:\n"
                       "- {name: a, queue: {max_waiting: 0}}\n"
                       "- {name: b, queue: {max_wait_ms: 7, comment_after_ms: 0}}\n"
                       "- {name: c, policy: random2}\n",
                       &err),
                 0, "%s", err.text);
    expect_queue(config, "other", 1024, 5000, 10000);
    expect_queue(config, "a", 0, 5000, 10000);
    expect_queue(config, "b", 1024, 7, 0);
    expect_queue(config, "c", 1024, 5000, 10000);
    config_destroy(config);
}

static uint64_t hold_of(const char *text)
{
    struct config *config;
    struct error err;
    uint64_t hold_us;

    cr_assert_eq(parse(&config, text, &err), 0, "%s", err.text);
    hold_us = config_hold_us(config);
    config_destroy(config);
    return hold_us;
}

Test(config, requests_are_held_only_where_fastest_alone_chooses)
{
    cr_assert_eq(hold_of("workers: 1\n"), 1000000);
    cr_assert_eq(hold_of("hold_ms: 250\n"), 250000);
    cr_assert_eq(hold_of("hold_ms: 0\n"), 0);
    cr_assert_eq(hold_of("testing: {speedup: 10}\n"), 100000);
    cr_assert_eq(hold_of("policy: least_conn\n"), 0);
    cr_assert_eq(hold_of("models: [{name: a, policy: fastest}]\n"), 1000000);
    cr_assert_eq(hold_of("models: [{name: a}, {name: b, policy: prefix_hash}]\n"), 0);
}
