/* A closed-loop load generator: N keep-alive connections, each sends its next request when the
 * answer to the last one is complete and checked (reply.h). One thread, epoll, 127.0.0.1 only.
 *
 *   load --port N --body FILE [--path /v1/chat/completions] [--connections 32] [--seconds 3]
 *        [--events K] [--numbered 1] [--ramp-s 0] [--drain-s 30]
 *
 * With --events K every answer must be a stream of exactly K events; with --numbered 1 only those
 * that carry a number are counted. The first "@@@@@@@@@@@@" of
 * the body is replaced by a number of its own in every request, so that prompts differ. After
 * --seconds no request is begun; open ones have --drain-s to end, so that every request begun is
 * counted. All connections are made before the clock starts, or, when the ramp is so long that a
 * server need not wait for their first bytes, each before its first request. Prints one JSON
 * object: counts, and latencies in microseconds from the send.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "loopback.h"
#include "reply.h"

#define MARK "@@@@@@@@@@@@"
#define MARK_LEN 12

struct conn {
    int fd, want_out;
    char mark[MARK_LEN + 1], *in;
    size_t in_len, sent;
    uint64_t start_ns, first_ns, last_ns;
    struct answer answer;
};

struct samples {
    uint32_t *us;
    size_t n, cap;
};

static int epoll_fd, port = 0, n_connections = 32, n_expected = 0, n_alive, n_reported;
static double seconds = 3, ramp_s = 0, drain_s = 30;
static char *prefix, *suffix;
static size_t prefix_len, suffix_len;
static uint64_t stop_ns, max_gap_ns;
static unsigned long n_begun, n_ok, n_errors, n_events, n_bytes;
static struct samples whole, first;
static char error_text[200];

#define IN_CAP 65536u
#define LONG_RAMP_S 5

static void keep(struct samples *s, uint64_t ns) {
    if (s->n == s->cap) s->us = realloc(s->us, (s->cap = s->cap * 2 + 4096) * sizeof *s->us);
    s->us[s->n++] = (uint32_t)(ns / 1000u);
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static unsigned quantile(struct samples *s, double q) {
    return s->n ? s->us[(size_t)(q * (double)(s->n - 1) + 0.5)] : 0;
}

static void watch(struct conn *c, int op, int want_out) {
    struct epoll_event e = {.events = EPOLLIN | (want_out ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, op, c->fd, &e);
    c->want_out = want_out;
}

static void fail(const char *why) {
    n_errors++;
    if (!n_reported++) snprintf(error_text, sizeof error_text, "%s", why);
}

static void transmit(struct conn *c) {
    size_t total = prefix_len + MARK_LEN + suffix_len;
    while (c->sent < total) {
        struct iovec part[3] = {{prefix, prefix_len}, {c->mark, MARK_LEN}, {suffix, suffix_len}};
        struct msghdr m = {.msg_iov = part, .msg_iovlen = 3};
        for (size_t skip = c->sent, i = 0; i < 3; i++) {
            size_t k = skip < part[i].iov_len ? skip : part[i].iov_len;
            part[i].iov_base = (char *)part[i].iov_base + k, part[i].iov_len -= k, skip -= k;
        }
        ssize_t n = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0) { /* EAGAIN waits; a broken connection is noticed by the read side */
            if (!c->want_out) watch(c, EPOLL_CTL_MOD, 1);
            return;
        }
        c->sent += (size_t)n;
    }
    if (c->want_out) watch(c, EPOLL_CTL_MOD, 0);
}

static void begin(struct conn *c) {
    snprintf(c->mark, sizeof c->mark, "%012lu", ++n_begun);
    start_answer(&c->answer, n_expected > 0);
    c->sent = c->in_len = 0, c->first_ns = 0;
    c->start_ns = c->last_ns = now_ns();
    transmit(c);
}

static void retire(struct conn *c) {
    close(c->fd);
    c->fd = -1, n_alive--;
}

static void dial(struct conn *c) {
    struct sockaddr_in a = loopback(port);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&a, sizeof a)) {
        fail("connect refused");
        close(c->fd);
        c->fd = -1;
        return;
    }
    send_at_once(c->fd);
    n_alive++;
    watch(c, EPOLL_CTL_ADD, 0);
}

static void settle(struct conn *c, uint64_t now) { /* the answer is complete or wrong */
    int broken = c->answer.phase == WRONG;
    n_events += (unsigned long)c->answer.n_events;
    if (broken) fail(c->answer.wrong);
    else n_ok++, keep(&whole, now - c->start_ns), keep(&first, c->first_ns - c->start_ns);
    if (broken || c->answer.closes || now >= stop_ns) {
        retire(c);
        if (now >= stop_ns || n_errors >= 1000) return;
        dial(c);
    }
    if (c->fd >= 0) begin(c);
}

static void readable(struct conn *c) {
    ssize_t n = recv(c->fd, c->in + c->in_len, IN_CAP - c->in_len, MSG_DONTWAIT);
    uint64_t now = now_ns();
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        refuse(&c->answer, "connection ended early", c->in, c->in_len);
        settle(c, now);
        return;
    }
    n_bytes += (unsigned long)n;
    if (c->answer.n_events && now - c->last_ns > max_gap_ns) max_gap_ns = now - c->last_ns;
    c->last_ns = now, c->in_len += (size_t)n;
    if (!c->first_ns) c->first_ns = now;
    size_t eaten = eat(&c->answer, c->in, c->in_len, n_expected);
    c->in_len -= eaten;
    memmove(c->in, c->in + eaten, c->in_len);
    if (c->answer.phase == COMPLETE && c->in_len) refuse(&c->answer, "bytes after the end", c->in, c->in_len);
    if (c->answer.phase >= COMPLETE) settle(c, now);
}

static void read_body(const char *name, const char *path) {
    FILE *f = fopen(name, "rb");
    if (!f) { perror(name); exit(2); }
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    char *body = malloc(n + 1), *mark;
    rewind(f);
    if (fread(body, 1, n, f) != n || !(mark = memmem(body, n, MARK, MARK_LEN))) {
        fprintf(stderr, "load: %s has no " MARK "\n", name);
        exit(2);
    }
    size_t before = (size_t)(mark - body);
    prefix = malloc(before + 512);
    prefix_len = (size_t)sprintf(prefix, "POST %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: "
                                 "application/json\r\nauthorization: Bearer bench\r\n"
                                 "content-length: %zu\r\n\r\n", path, port, n);
    memcpy(prefix + prefix_len, body, before);
    prefix_len += before;
    suffix = mark + MARK_LEN, suffix_len = n - before - MARK_LEN;
}

static void report(double elapsed_s, int n_unfinished) {
    if (whole.n) qsort(whole.us, whole.n, sizeof *whole.us, by_value);
    if (first.n) qsort(first.us, first.n, sizeof *first.us, by_value);
    printf("{\"n_ok\":%lu,\"n_errors\":%lu,\"n_unfinished\":%d,\"n_events\":%lu,\"n_bytes\":%lu,"
           "\"elapsed_s\":%.3f,\"p50_us\":%u,\"p99_us\":%u,\"max_us\":%u,\"first_p50_us\":%u,"
           "\"first_p99_us\":%u,\"max_gap_us\":%lu,\"error\":\"%s\"}\n",
           n_ok, n_errors, n_unfinished, n_events, n_bytes, elapsed_s, quantile(&whole, 0.5),
           quantile(&whole, 0.99), quantile(&whole, 1), quantile(&first, 0.5), quantile(&first, 0.99),
           (unsigned long)(max_gap_ns / 1000u), error_text);
}

int main(int argc, char **argv) {
    const char *path = "/v1/chat/completions", *body = NULL;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *flag = argv[i], *value = argv[i + 1];
        if (!strcmp(flag, "--port")) port = atoi(value);
        else if (!strcmp(flag, "--body")) body = value;
        else if (!strcmp(flag, "--path")) path = value;
        else if (!strcmp(flag, "--connections")) n_connections = atoi(value);
        else if (!strcmp(flag, "--seconds")) seconds = atof(value);
        else if (!strcmp(flag, "--events")) n_expected = atoi(value);
        else if (!strcmp(flag, "--numbered")) only_numbered = atoi(value);
        else if (!strcmp(flag, "--ramp-s")) ramp_s = atof(value);
        else if (!strcmp(flag, "--drain-s")) drain_s = atof(value);
        else { fprintf(stderr, "load: unknown flag %s\n", flag); return 2; }
    }
    if (!port || !body) { fprintf(stderr, "load: --port and --body are needed\n"); return 2; }
    raise_file_limit();
    read_body(body, path);
    epoll_fd = epoll_create1(0);
    struct conn *conns = calloc((size_t)n_connections, sizeof *conns);
    for (int i = 0; i < n_connections; i++) { /* connecting is no part of any latency */
        conns[i].in = malloc(IN_CAP);
        conns[i].fd = -1;
        if (ramp_s <= LONG_RAMP_S) dial(&conns[i]);
    }
    uint64_t start = now_ns(), now = start;
    stop_ns = start + (uint64_t)(seconds * 1e9);
    uint64_t give_up_ns = stop_ns + (uint64_t)(drain_s * 1e9);
    int begun = 0;
    while (now < give_up_ns && (n_alive || begun < n_connections)) {
        double share = ramp_s > 0 ? (double)(now - start) / (ramp_s * 1e9) : 1;
        int due = share >= 1 ? n_connections : 1 + (int)(share * (n_connections - 1));
        for (; begun < due; begun++) {
            if (ramp_s > LONG_RAMP_S) dial(&conns[begun]);
            if (conns[begun].fd >= 0) begin(&conns[begun]);
        }
        struct epoll_event got[512];
        int n = epoll_wait(epoll_fd, got, 512, begun < n_connections ? 1 : 100);
        for (int i = 0; i < n; i++) {
            struct conn *c = got[i].data.ptr;
            if (c->fd >= 0 && got[i].events & EPOLLOUT) transmit(c);
            if (c->fd >= 0 && got[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) readable(c);
        }
        now = now_ns();
    }
    report((double)(now - start) / 1e9, n_alive);
    return n_errors || n_alive ? 1 : 0;
}
