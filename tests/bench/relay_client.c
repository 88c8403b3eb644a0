/*
 * relay_client.c - holds N event streams open through one address and measures them.
 *
 * The load side of scripts/bench-relay.  It opens N streaming chat completions, waits until all
 * of them deliver, and then for a window of W seconds counts events (one blank line ends one)
 * and takes the CPU time of the processes under test at both ends of the window, so that both
 * are over the same interval.  During the window it also sends probe requests of one token, in
 * turn through the address under test and straight to the engine, each on a connection of its
 * own: the difference of the two distributions is the time to first token that the relay adds.
 *
 * One thread, one epoll set; everything it prints is one JSON object on standard output.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/http_answer.h"

#define READ_BYTES      65536
#define MAX_PIDS        16
#define OPEN_PER_TURN   32  /* connections begun per turn while ramping up */
#define OPENING_AT_MOST 256 /* connections without an answer at any time */
#define NO_LIMIT        UINT64_MAX

enum kind { KIND_STREAM = 0, KIND_PROBE_RELAY, KIND_PROBE_DIRECT };

struct conn {
    int fd; /* -1: not open */
    enum kind kind;
    bool sent;
    bool answered;          /* first content event has come */
    uint64_t begun_mono_us; /* connect() was called */
    struct http_answer answer;
    uint32_t content_events; /* up to the first with content */
    uint32_t line_len;       /* bytes of the event's present line */
    bool line_data;          /* the event has a data line */
};

struct samples {
    uint64_t *us; /* owned */
    size_t len, cap;
};

struct cpu_use {
    uint64_t us;
    uint64_t pss_bytes;
};

struct bench {
    int epoll_fd;
    struct sockaddr_in relay, direct;
    struct conn *streams; /* owned */
    unsigned streams_count, opened, answered, failed;
    struct conn probe;
    unsigned probes_sent;
    struct samples ramp, probe_relay, probe_direct;
    uint64_t events; /* since start, content or not */
    uint64_t bytes;
    int pids[MAX_PIDS];
    unsigned pids_count;
    char *request;       /* owned: body and head for a stream */
    char *probe_request; /* owned */
    uint64_t probe_every_us, probe_due_mono_us;
    bool in_window;
};

static void die(const char *what)
{
    fprintf(stderr, "relay_client: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void add_sample(struct samples *s, uint64_t us)
{
    if (s->len == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 1024;
        s->us = realloc(s->us, s->cap * sizeof(s->us[0]));
        if (!s->us)
            die("realloc");
    }
    s->us[s->len++] = us;
}

static int compare_us(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static uint64_t quantile(struct samples *s, double fraction)
{
    if (s->len == 0)
        return 0;
    qsort(s->us, s->len, sizeof(s->us[0]), compare_us);
    size_t rank = (size_t)(fraction * (double)(s->len - 1) + 0.5);
    return s->us[rank];
}

static bool read_file(const char *path, char *out, size_t cap)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd == -1)
        return false;
    ssize_t n = read(fd, out, cap - 1);
    close(fd);
    if (n < 0)
        return false;
    out[n] = '\0';
    return true;
}

/* User and system time of a process, and its proportional share of memory. */
static struct cpu_use process_use(int pid)
{
    struct cpu_use use = {0};
    char path[64], text[4096];
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    if (read_file(path, text, sizeof(text))) {
        /* Fields 14 and 15; the name in field 2 may hold anything, so count after its end. */
        char *p = strrchr(text, ')');
        unsigned long long user = 0, system = 0;
        if (p && sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user,
                        &system) == 2)
            use.us = (user + system) * 1000000u / (uint64_t)sysconf(_SC_CLK_TCK);
    }
    snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
    if (read_file(path, text, sizeof(text))) {
        char *p = strstr(text, "\nPss:");
        unsigned long long kib = 0;
        if (p && sscanf(p, "\nPss: %llu kB", &kib) == 1)
            use.pss_bytes = kib * 1024u;
    }
    return use;
}

static struct cpu_use all_use(const struct bench *b)
{
    struct cpu_use sum = {0};
    for (unsigned i = 0; i < b->pids_count; i++) {
        struct cpu_use one = process_use(b->pids[i]);
        sum.us += one.us;
        sum.pss_bytes += one.pss_bytes;
    }
    return sum;
}

static void begin(struct bench *b, struct conn *c, enum kind kind)
{
    memset(c, 0, sizeof(*c));
    c->kind = kind;
    c->begun_mono_us = http_answer_now_us();
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd == -1)
        die("socket");
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    const struct sockaddr_in *to = kind == KIND_PROBE_DIRECT ? &b->direct : &b->relay;
    if (connect(c->fd, (const struct sockaddr *)to, sizeof(*to)) == -1 && errno != EINPROGRESS)
        die("connect");
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data = {.ptr = c}};
    if (epoll_ctl(b->epoll_fd, EPOLL_CTL_ADD, c->fd, &event) == -1)
        die("epoll_ctl");
}

static void end(struct conn *c)
{
    if (c->fd != -1)
        close(c->fd);
    c->fd = -1;
}

/* An answer that is over before we closed it, or is none. */
static void fail(struct bench *b, struct conn *c, const char *why)
{
    if (b->failed++ == 0)
        fprintf(stderr, "relay_client: a stream failed (%s, status %u)\n", why,
                c->answer.status);
    end(c);
}

static void first_content(struct bench *b, struct conn *c)
{
    uint64_t us = http_answer_now_us() - c->begun_mono_us;
    c->answered = true;
    switch (c->kind) {
    case KIND_STREAM:
        b->answered++;
        add_sample(&b->ramp, us);
        break;
    case KIND_PROBE_RELAY:
        add_sample(&b->probe_relay, us);
        break;
    case KIND_PROBE_DIRECT:
        add_sample(&b->probe_direct, us);
        break;
    }
}

/* Body bytes: counts blank lines that end an event with data. */
static void scan_events(struct bench *b, struct conn *c, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '\n') {
            if (c->line_len == 0) {
                if (c->line_data) {
                    if (c->kind == KIND_STREAM)
                        b->events++;
                    /* The role-only first event is no content: take the second. */
                    if (!c->answered && ++c->content_events == 2)
                        first_content(b, c);
                }
                c->line_data = false;
            }
            c->line_len = 0;
        } else if (p[i] != '\r') {
            if (c->line_len == 0 && p[i] == 'd')
                c->line_data = true;
            c->line_len++;
        }
    }
}

/* Takes the bytes of one read() apart. */
static void feed(struct bench *b, struct conn *c, const char *p, size_t n)
{
    const char *body;
    size_t body_len;

    for (;;) {
        switch (http_answer_next(&c->answer, &p, &n, &body, &body_len)) {
        case HTTP_ANSWER_BODY:
            scan_events(b, c, body, body_len);
            break;
        case HTTP_ANSWER_HEAD:
            break;
        case HTTP_ANSWER_MORE:
        case HTTP_ANSWER_END:
            return;
        }
    }
}

static void on_ready(struct bench *b, struct conn *c, uint32_t events)
{
    static char buffer[READ_BYTES];
    if (c->fd == -1)
        return;
    if (!c->sent && (events & EPOLLOUT)) {
        const char *text = c->kind == KIND_STREAM ? b->request : b->probe_request;
        size_t len = strlen(text);
        if (write(c->fd, text, len) != (ssize_t)len) {
            fail(b, c, strerror(errno));
            return;
        }
        c->sent = true;
    }
    for (;;) {
        ssize_t n = read(c->fd, buffer, sizeof(buffer));
        if (n == -1 && errno == EAGAIN)
            return;
        if (n == -1) {
            fail(b, c, strerror(errno));
            return;
        }
        b->bytes += (uint64_t)n;
        feed(b, c, buffer, (size_t)n);
        bool over = n == 0 || c->answer.part == HTTP_ANSWER_PART_END;
        if (c->kind != KIND_STREAM && (over || c->answered)) {
            if (!c->answered)
                fail(b, c, "probe without content");
            end(c);
            return;
        }
        if (over || (c->answer.status != 0 && c->answer.status != 200)) {
            fail(b, c, over ? "ended early" : "not 200");
            return;
        }
        if ((size_t)n < sizeof(buffer) && !(events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)))
            return;
    }
}

static void probe(struct bench *b)
{
    uint64_t now = http_answer_now_us();
    if (!b->in_window || b->probe_every_us == 0 || b->probe.fd != -1 ||
        now < b->probe_due_mono_us)
        return;
    b->probe_due_mono_us = now + b->probe_every_us;
    begin(b, &b->probe, b->probes_sent++ % 2 ? KIND_PROBE_DIRECT : KIND_PROBE_RELAY);
}

/* Runs until `until_mono_us`, or (when it is NO_LIMIT) until all streams have answered. */
static void run(struct bench *b, uint64_t until_mono_us)
{
    struct epoll_event ready[512];
    uint64_t begun = http_answer_now_us();
    for (;;) {
        uint64_t now = http_answer_now_us();
        if (until_mono_us == NO_LIMIT ? b->answered + b->failed >= b->streams_count
                                      : now >= until_mono_us)
            return;
        if (until_mono_us == NO_LIMIT && now - begun > 120u * 1000000u) {
            fprintf(stderr, "relay_client: %u of %u streams began\n", b->answered,
                    b->streams_count);
            exit(1);
        }
        for (unsigned i = 0; i < OPEN_PER_TURN && b->opened < b->streams_count &&
                             b->opened - b->answered - b->failed < OPENING_AT_MOST;
             i++)
            begin(b, &b->streams[b->opened++], KIND_STREAM);
        probe(b);
        int n = epoll_wait(b->epoll_fd, ready, 512, 1);
        if (n == -1 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < n; i++)
            on_ready(b, ready[i].data.ptr, ready[i].events);
    }
}

static struct sockaddr_in parse_address(const char *text)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    char host[64];
    const char *colon = strrchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof(host)) {
        fprintf(stderr, "relay_client: '%s' is not IPV4:PORT\n", text);
        exit(2);
    }
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = '\0';
    a.sin_port = htons((uint16_t)atoi(colon + 1));
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1) {
        fprintf(stderr, "relay_client: '%s' is not IPV4:PORT\n", text);
        exit(2);
    }
    return a;
}

static char *make_request(const char *model, unsigned tokens)
{
    char body[512], *out = NULL;
    int n = snprintf(body, sizeof(body),
                     "{\"model\":\"%s\",\"stream\":true,\"max_tokens\":%u,\"messages\":"
                     "[{\"role\":\"user\",\"content\":\"Tell me about the sea.\"}]}",
                     model, tokens);
    if (n < 0 || (size_t)n >= sizeof(body) ||
        asprintf(&out,
                 "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\n"
                 "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                 n, body) == -1)
        die("request");
    return out;
}

static void print_times(const char *name, struct samples *s, const char *after)
{
    printf("\"%s\":{\"count\":%zu,\"p50_us\":%llu,\"p90_us\":%llu,\"p99_us\":%llu}%s", name,
           s->len, (unsigned long long)quantile(s, 0.5), (unsigned long long)quantile(s, 0.9),
           (unsigned long long)quantile(s, 0.99), after);
}

static void usage(void)
{
    fputs("usage: relay_client --relay IP:PORT --direct IP:PORT --model M --streams N\n"
          "                    [--window SECONDS] [--settle SECONDS] [--probes PER_SECOND]\n"
          "                    [--tokens N] [--pid PID]...\n",
          stderr);
    exit(2);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"relay", required_argument, NULL, 'r'},  {"direct", required_argument, NULL, 'd'},
        {"model", required_argument, NULL, 'm'},  {"streams", required_argument, NULL, 'n'},
        {"window", required_argument, NULL, 'w'}, {"settle", required_argument, NULL, 's'},
        {"probes", required_argument, NULL, 'p'}, {"tokens", required_argument, NULL, 't'},
        {"pid", required_argument, NULL, 'i'},    {0},
    };
    static struct bench b;
    const char *model = "sim";
    unsigned window_s = 10, settle_s = 2, probes_per_s = 40, tokens = 1000000;
    bool relay = false, direct = false;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 'r':
            b.relay = parse_address(optarg);
            relay = true;
            break;
        case 'd':
            b.direct = parse_address(optarg);
            direct = true;
            break;
        case 'm':
            model = optarg;
            break;
        case 'n':
            b.streams_count = (unsigned)atoi(optarg);
            break;
        case 'w':
            window_s = (unsigned)atoi(optarg);
            break;
        case 's':
            settle_s = (unsigned)atoi(optarg);
            break;
        case 'p':
            probes_per_s = (unsigned)atoi(optarg);
            break;
        case 't':
            tokens = (unsigned)atoi(optarg);
            break;
        case 'i':
            if (b.pids_count == MAX_PIDS)
                usage();
            b.pids[b.pids_count++] = atoi(optarg);
            break;
        default:
            usage();
        }
    }
    if (!relay || !direct || b.streams_count == 0 || window_s == 0)
        usage();

    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur < b.streams_count + 64u) {
        fprintf(stderr, "relay_client: %u streams need more than %llu open files (ulimit -n)\n",
                b.streams_count, (unsigned long long)files.rlim_cur);
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    b.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    b.streams = calloc(b.streams_count, sizeof(b.streams[0]));
    if (b.epoll_fd == -1 || !b.streams)
        die("start");
    for (unsigned i = 0; i < b.streams_count; i++)
        b.streams[i].fd = -1;
    b.probe.fd = -1;
    b.request = make_request(model, tokens);
    b.probe_request = make_request(model, 2);

    struct cpu_use idle = all_use(&b);
    uint64_t ramp_begin = http_answer_now_us();
    run(&b, NO_LIMIT);
    uint64_t ramp_us = http_answer_now_us() - ramp_begin;
    run(&b, http_answer_now_us() + settle_s * 1000000u);

    b.probe_every_us = probes_per_s ? 1000000u / probes_per_s : 0;
    b.in_window = true;
    struct cpu_use before = all_use(&b);
    uint64_t events = b.events, begun = http_answer_now_us();
    run(&b, begun + window_s * 1000000u);
    struct cpu_use after = all_use(&b);
    uint64_t elapsed_us = http_answer_now_us() - begun;
    events = b.events - events;

    printf("{\"streams\":%u,\"failed\":%u,\"events\":%llu,\"window_us\":%llu,"
           "\"ramp_us\":%llu,\"cpu_us\":%llu,\"pss_idle_bytes\":%llu,\"pss_bytes\":%llu,",
           b.streams_count, b.failed, (unsigned long long)events,
           (unsigned long long)elapsed_us, (unsigned long long)ramp_us,
           (unsigned long long)(after.us - before.us), (unsigned long long)idle.pss_bytes,
           (unsigned long long)after.pss_bytes);
    print_times("ramp_ttft", &b.ramp, ",");
    print_times("probe_relay", &b.probe_relay, ",");
    print_times("probe_direct", &b.probe_direct, "}\n");

    end(&b.probe);
    for (unsigned i = 0; i < b.streams_count; i++)
        end(&b.streams[i]);
    close(b.epoll_fd);
    free(b.streams);
    free(b.request);
    free(b.probe_request);
    free(b.ramp.us);
    free(b.probe_relay.us);
    free(b.probe_direct.us);
    return b.failed ? 1 : 0;
}
