/* options.c - drover-node's command line. */
#include "node/options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/config/file_path.h"
#include "base/error.h"
#include "base/io/net.h"
#include "base/secure/secret.h"
#include "base/text/text.h"
#include "proto/operations.h"

#define DRAIN_DEFAULT_S  60
#define TOKEN_FILE_BYTES 4096

const char options_help[] =
    "usage: drover-node --engine URL [options]\n"
    "\n"
    "Serves one engine to Drover coordinators.\n"
    "\n"
    "  --engine URL             llama-server, Ollama, vLLM, or any OpenAI HTTP server\n"
    "  --engine-key-file FILE   API key for the engine\n"
    "  --engine-ca FILE         check an https engine's certificate with this authority\n"
    "  --engine-insecure        do not check it: anyone in between can read and change all\n"
    "  --model NAME             offer this model and no other; may be repeated; for servers\n"
    "                           without a list of models, or with too long a one\n"
    "  --operations LIST        offer these operations and no others, as chat_completions,\n"
    "                           messages,rerank [as detected, and learned]\n"
    "  --look-every SECONDS     time between looks at an idle engine [5; 300 for one behind a "
    "public\n"
    "                           address that does not show its load, as paid APIs do]\n"
    "  --resume-ids             ask a llama-server for token ids, so that completions that go "
    "on\n"
    "                           elsewhere are exact; costs it a look at all tokens for each\n"
    "  --coordinator HOST:PORT  join this coordinator; may be repeated\n"
    "  --token-file FILE        join token: newest on line 1, previous on line 2\n"
    "  --insecure-no-token      run without a token: anyone who reaches us may use us; one of\n"
    "                           these, or --tls-ca, is needed unless --listen is a loopback\n"
    "                           address\n"
    "  --name NAME              name of this node [host name]\n"
    "  --listen HOST:PORT       where coordinators reach us [0.0.0.0:9090]; port 0: any\n"
    "  --advertise ADDRESS      numeric address for coordinators [as they see us]\n"
    "  --slots N | MIN-MAX      requests the engine runs at once, or bounds for what is\n"
    "                           learned [as the engine says, else learned]\n"
    "  --queue N                requests to hold beyond that [half the slots; none where "
    "learned]\n"
    "  --tls-cert FILE --tls-key FILE   serve over TLS\n"
    "  --tls-ca FILE            and demand client certificates signed by this\n"
    "  --coordinator-tls-ca FILE  reach coordinators over TLS, verified by this\n"
    "  --drain-timeout SECONDS  longest wait for open requests on SIGTERM [60]\n"
    "  --log-level LEVEL        error, warn, info or debug [info]\n"
    "  --log-file FILE          log to a file instead of standard error\n"
    "  --seccomp MODE           the filter of system calls: on (default), off, or log, which\n"
    "                           forbids nothing and lets the kernel log what would be\n"
    "  --core-dumps             a crash may leave a core file: prompts and tokens are in it\n"
    "  -h, --help               this text\n"
    "  -V, --version            the version\n"
    "\n"
    "Signals: TERM or INT drains and exits, a second one exits at once; HUP reads the token\n"
    "file again; USR1 opens the log file again.\n";

enum {
    OPT_ENGINE = 256,
    OPT_LISTEN,
    OPT_ADVERTISE,
    OPT_COORDINATOR,
    OPT_TOKEN_FILE,
    OPT_NAME,
    OPT_SLOTS,
    OPT_QUEUE,
    OPT_ENGINE_KEY_FILE,
    OPT_ENGINE_CA,
    OPT_ENGINE_INSECURE,
    OPT_MODEL,
    OPT_OPERATIONS,
    OPT_LOOK_EVERY,
    OPT_RESUME_IDS,
    OPT_TLS_CERT,
    OPT_TLS_KEY,
    OPT_TLS_CA,
    OPT_COORDINATOR_TLS_CA,
    OPT_DRAIN_TIMEOUT,
    OPT_LOG_FILE,
    OPT_INSECURE_NO_TOKEN,
    OPT_CORE_DUMPS,
    OPT_SECCOMP,
};

static const struct option long_options[] = {
    {"engine", required_argument, NULL, OPT_ENGINE},
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"advertise", required_argument, NULL, OPT_ADVERTISE},
    {"coordinator", required_argument, NULL, OPT_COORDINATOR},
    {"token-file", required_argument, NULL, OPT_TOKEN_FILE},
    {"name", required_argument, NULL, OPT_NAME},
    {"slots", required_argument, NULL, OPT_SLOTS},
    {"queue", required_argument, NULL, OPT_QUEUE},
    {"engine-key-file", required_argument, NULL, OPT_ENGINE_KEY_FILE},
    {"engine-ca", required_argument, NULL, OPT_ENGINE_CA},
    {"engine-insecure", no_argument, NULL, OPT_ENGINE_INSECURE},
    {"model", required_argument, NULL, OPT_MODEL},
    {"operations", required_argument, NULL, OPT_OPERATIONS},
    {"look-every", required_argument, NULL, OPT_LOOK_EVERY},
    {"resume-ids", no_argument, NULL, OPT_RESUME_IDS},
    {"tls-cert", required_argument, NULL, OPT_TLS_CERT},
    {"tls-key", required_argument, NULL, OPT_TLS_KEY},
    {"tls-ca", required_argument, NULL, OPT_TLS_CA},
    {"coordinator-tls-ca", required_argument, NULL, OPT_COORDINATOR_TLS_CA},
    {"drain-timeout", required_argument, NULL, OPT_DRAIN_TIMEOUT},
    {"log-file", required_argument, NULL, OPT_LOG_FILE},
    {"insecure-no-token", no_argument, NULL, OPT_INSECURE_NO_TOKEN},
    {"core-dumps", no_argument, NULL, OPT_CORE_DUMPS},
    {"seccomp", required_argument, NULL, OPT_SECCOMP},
    COMMAND_LINE_COMMON,
};

static int parse_seccomp(enum sandbox_mode *out, const char *text, struct error *err)
{
    static const char *const names[] = {
        [SANDBOX_ON] = "on", [SANDBOX_OFF] = "off", [SANDBOX_LOG] = "log"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (enum sandbox_mode)i;
            return 0;
        }
    }
    return error_set(err, DRV_EINVAL, "--seccomp wants on, off or log, not \"%s\"", text);
}

static int parse_number(uint32_t *out, const char *option, const char *text, uint32_t min,
                        uint32_t max, struct error *err)
{
    char *end = NULL;
    unsigned long n;

    errno = 0;
    n = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || n < min || n > max)
        return error_set(err, DRV_EINVAL, "%s wants a number from %u to %u, not \"%s\"", option,
                         (unsigned)min, (unsigned)max, text);
    *out = (uint32_t)n;
    return 0;
}

/* "8": so many.  "2-16": bounds. */
static int parse_slots(struct options *o, const char *value, struct error *err)
{
    const char *dash = strchr(value, '-');
    char min[16];
    int rc;

    if (dash == NULL) {
        rc = parse_number(&o->slots_min, "--slots", value, 1, 65536, err);
        o->slots_max = o->slots_min;
        return rc;
    }
    if ((size_t)(dash - value) >= sizeof(min))
        return error_set(err, DRV_EINVAL, "--slots wants N or MIN-MAX, not \"%s\"", value);
    (void)strlcpy(min, value, (size_t)(dash - value) + 1);
    rc = parse_number(&o->slots_min, "--slots", min, 1, 65536, err);
    if (rc == 0)
        rc = parse_number(&o->slots_max, "--slots", dash + 1, 1, 65536, err);
    if (rc == 0 && o->slots_min > o->slots_max)
        return error_set(err, DRV_EINVAL, "--slots: %u is more than %u", (unsigned)o->slots_min,
                         (unsigned)o->slots_max);
    return rc;
}

/* The host's name, made into a node's name. */
static void default_name(char name[AGENT_NODE_ID_BYTES])
{
    char host[256] = "";

    if (gethostname(host, sizeof(host) - 1) != 0 || host[0] == '\0')
        (void)strlcpy(host, "node", sizeof(host));
    (void)strlcpy(name, host, AGENT_NODE_ID_BYTES);
    for (char *p = name; *p != '\0'; p++) {
        char one[2] = {*p, '\0'};

        if (!text_is_name(one, 1))
            *p = '-';
    }
}

static int keep(const char **out, struct options *o, const char *text, struct error *err)
{
    char *to = o->kept + o->kept_used;
    size_t left = sizeof(o->kept) - o->kept_used, n = strlcpy(to, text, left);

    if (n >= left)
        return error_set(err, DRV_EINVAL, "the options are too long together");
    o->kept_used += n + 1;
    *out = to;
    return 0;
}

/* A path: a shell leaves the '~' of --option=~/x as it is. */
static int take_path(struct options *o, const char **out, const char *option, const char *value,
                     struct error *err)
{
    char path[FILE_PATH_BYTES];
    int rc;

    *out = value;
    if (value[0] != '~')
        return 0;
    rc = file_path(path, sizeof(path), NULL, value, err);
    if (rc != 0)
        return error_wrap(err, rc, "%s", option);
    return keep(out, o, path, err);
}

/* HOST:PORT; of a URL that says no more than that, its HOST:PORT.  `tls_option`: what switches
 * TLS on there. */
static int take_address(struct options *o, const char **address, bool tls, const char *option,
                        const char *tls_option, struct error *err)
{
    char plain[512], host[256];
    uint16_t port;
    int rc = net_take_url(plain, sizeof(plain), *address, tls, err);

    if (rc != 0 && !tls && strncasecmp(*address, "https:", 6) == 0)
        return error_wrap(err, rc, "%s (%s switches TLS on)", option, tls_option);
    if (rc != 0)
        return error_wrap(err, rc, "%s", option);
    rc = net_split(plain, host, sizeof(host), &port, err);
    if (rc != 0)
        return error_wrap(err, rc, "%s", option);
    return strcmp(plain, *address) == 0 ? 0 : keep(address, o, plain, err);
}

static int add_model(struct options *o, const char *name, struct error *err)
{
    if (!text_is_label(name, ENGINE_MODEL_BYTES - 1))
        return error_set(err, DRV_EINVAL, "--model wants 1 to %d printable bytes, not \"%s\"",
                         ENGINE_MODEL_BYTES - 1, name);
    if (o->models_count == ENGINE_OFFER_MODELS)
        return error_set(err, DRV_EINVAL, "more than %d times --model", ENGINE_OFFER_MODELS);
    o->models[o->models_count++] = name;
    return 0;
}

/* Names of operations between commas. */
static int parse_operations(uint32_t *out, const char *list, struct error *err)
{
    for (const char *name = list; name != NULL;) {
        const char *comma = strchr(name, ',');
        size_t n = comma == NULL ? strlen(name) : (size_t)(comma - name);
        int operation = operation_find(name, n);

        if (operation == 0)
            return error_set(err, DRV_EINVAL,
                             "--operations: there is no \"%.*s\"; one is chat_completions, see "
                             "drover-node(8)",
                             (int)n, name);
        *out |= UINT32_C(1) << operation;
        name = comma == NULL ? NULL : comma + 1;
    }
    return 0;
}

static int take(void *data, int option, const char *value, struct error *err)
{
    struct options *o = data;
    uint32_t n = 0;
    int rc;

    switch (option) {
    case OPT_ENGINE:
        o->engine = value;
        return 0;
    case OPT_LISTEN:
        o->listen = value;
        return 0;
    case OPT_ADVERTISE: {
        uint8_t raw[16];

        o->advertise = value;
        if (inet_pton(AF_INET, value, raw) == 1 || inet_pton(AF_INET6, value, raw) == 1)
            return 0;
        return error_set(err, DRV_EINVAL, "--advertise wants a numeric address, not \"%s\"",
                         value);
    }
    case OPT_COORDINATOR:
        if (o->coordinators_count == OPTIONS_MAX_COORDINATORS)
            return error_set(err, DRV_EINVAL, "more than %d coordinators",
                             OPTIONS_MAX_COORDINATORS);
        o->coordinators[o->coordinators_count++] = value;
        return 0;
    case OPT_TOKEN_FILE:
        return take_path(o, &o->token_file, "--token-file", value, err);
    case OPT_NAME:
        if (!text_is_name(value, AGENT_NODE_ID_BYTES - 1))
            return error_set(err, DRV_EINVAL,
                             "--name wants 1 to 63 of A-Z a-z 0-9 . _ -, not \"%s\"", value);
        (void)strlcpy(o->name, value, sizeof(o->name));
        return 0;
    case OPT_SLOTS:
        return parse_slots(o, value, err);
    case OPT_QUEUE:
        rc = parse_number(&n, "--queue", value, 0, 65536, err);
        if (rc == 0)
            o->queue = (int32_t)n;
        return rc;
    case OPT_LOOK_EVERY:
        return parse_number(&o->look_every_s, "--look-every", value, 1, 86400, err);
    case OPT_RESUME_IDS:
        o->resume_ids = true;
        return 0;
    case OPT_ENGINE_KEY_FILE:
        return take_path(o, &o->engine_key_file, "--engine-key-file", value, err);
    case OPT_ENGINE_CA:
        return take_path(o, &o->engine_ca, "--engine-ca", value, err);
    case OPT_ENGINE_INSECURE:
        o->engine_insecure = true;
        return 0;
    case OPT_MODEL:
        return add_model(o, value, err);
    case OPT_OPERATIONS:
        return parse_operations(&o->operations, value, err);
    case OPT_TLS_CERT:
        return take_path(o, &o->tls_cert, "--tls-cert", value, err);
    case OPT_TLS_KEY:
        return take_path(o, &o->tls_key, "--tls-key", value, err);
    case OPT_TLS_CA:
        return take_path(o, &o->tls_ca, "--tls-ca", value, err);
    case OPT_COORDINATOR_TLS_CA:
        return take_path(o, &o->coordinator_tls_ca, "--coordinator-tls-ca", value, err);
    case OPT_DRAIN_TIMEOUT:
        return parse_number(&o->drain_timeout_s, "--drain-timeout", value, 0, 86400, err);
    case OPT_LOG_FILE:
        return take_path(o, &o->log_file, "--log-file", value, err);
    case OPT_INSECURE_NO_TOKEN:
        o->insecure_no_token = true;
        return 0;
    case OPT_CORE_DUMPS:
        o->core_dumps = true;
        return 0;
    case OPT_SECCOMP:
        return parse_seccomp(&o->seccomp, value, err);
    default: /* getopt_long(3) gives an int */
        return error_set(err, DRV_EINVAL, "option not handled: %d", option);
    }
}

static int check_addresses(struct options *o, struct error *err)
{
    int rc = take_address(o, &o->listen, o->tls_cert != NULL, "--listen",
                          "--tls-cert with --tls-key", err);

    for (size_t i = 0; i < o->coordinators_count && rc == 0; i++)
        rc = take_address(o, &o->coordinators[i], o->coordinator_tls_ca != NULL,
                          "--coordinator", "--coordinator-tls-ca", err);
    return rc;
}

static int check_together(const struct options *o, struct error *err)
{
    if (o->engine == NULL)
        return error_set(err, DRV_EINVAL, "--engine is missing");
    if (strncmp(o->engine, "sim:", 4) == 0)
        return error_set(err, DRV_EINVAL,
                         "the simulated engine is a program of its own: start drover-sim "
                         "--engine \"%s\", then --engine http://127.0.0.1:8091",
                         o->engine + 4);
    if (o->token_file != NULL && o->insecure_no_token)
        return error_set(err, DRV_EINVAL,
                         "--token-file and --insecure-no-token exclude each "
                         "other");
    if (o->engine_ca != NULL && o->engine_insecure)
        return error_set(err, DRV_EINVAL,
                         "--engine-ca and --engine-insecure exclude each other");
    if ((o->engine_ca != NULL || o->engine_insecure) &&
        strncasecmp(o->engine, "https:", 6) != 0)
        return error_set(err, DRV_EINVAL, "--engine-%s is for an engine with https",
                         o->engine_insecure ? "insecure" : "ca");
    if ((o->tls_cert == NULL) != (o->tls_key == NULL))
        return error_set(err, DRV_EINVAL, "--tls-cert and --tls-key go together");
    if (o->tls_ca != NULL && o->tls_cert == NULL)
        return error_set(err, DRV_EINVAL, "--tls-ca needs --tls-cert and --tls-key");
    return 0;
}

int options_parse(struct options *out, int argc, char **argv, struct error *err)
{
    int rc;

    memset(out, 0, sizeof(*out));
    out->listen = OPTIONS_DEFAULT_LISTEN;
    out->advertise = "";
    out->queue = -1;
    out->drain_timeout_s = DRAIN_DEFAULT_S;
    default_name(out->name);
    rc = command_line_parse(&out->line, argc, argv, long_options, take, out, err);
    if (rc != 0 || out->line.help || out->line.version)
        return rc;
    rc = check_addresses(out, err);
    return rc == 0 ? check_together(out, err) : rc;
}

int options_read_tokens(char out[TOKENS_MAX][TOKEN_MAX_BYTES + 1], const char *path,
                        struct error *err)
{
    char text[TOKEN_FILE_BYTES];
    int rc = secret_read(text, sizeof(text), path, err);

    if (rc == 0)
        rc = tokens_parse(out, text, err);
    explicit_bzero(text, sizeof(text));
    return rc == 0 ? 0 : error_wrap(err, rc, "token file %s", path);
}
