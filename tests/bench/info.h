/* The stub's answers to everything but generation: what a gateway asks when it registers,
 * probes and polls a worker, and the stub's own counters. */
#ifndef INFO_H
#define INFO_H

#include <stdio.h>
#include <string.h>
#include <time.h>

struct seen {
    unsigned long n_requests; /* generation requests */
    unsigned long n_streamed; /* of these, answered by events */
    unsigned long n_rooms;    /* of these, carrying a bootstrap room */
    unsigned long n_handoffs; /* of these, carrying kv_transfer_params */
    unsigned long n_cut;      /* streams whose client left before the end */
    unsigned long n_aborts;   /* calls of /abort_request */
    unsigned long n_connections;
    int n_open_streams;
};

/* Writes the body for path (at most 2,047 bytes) and returns the HTTP status. */
static int info_text(char *text, const char *path, int prefill, int port, const struct seen *seen) {
    const char *role = prefill ? "prefill" : "decode";
    if (!strcmp(path, "/v1/models"))
        strcpy(text, "{\"object\":\"list\",\"data\":[{\"id\":\"stub\",\"object\":\"model\",\"created\":1795422858,"
                     "\"owned_by\":\"sglang\",\"root\":\"stub\",\"parent\":null,\"max_model_len\":8388608}]}");
    else if (!strcmp(path, "/server_info") || !strcmp(path, "/get_server_info"))
        sprintf(text,
                "{\"model_path\":\"stub\",\"served_model_name\":\"stub\",\"version\":\"0.5.23\",\"tp_size\":1,"
                "\"dp_size\":1,\"page_size\":16,\"schedule_policy\":\"fcfs\",\"chunked_prefill_size\":8192,"
                "\"max_running_requests\":16384,\"max_total_num_tokens\":100000000,\"context_length\":8388608,"
                "\"load_balance_method\":\"follow_bootstrap_room\",\"disaggregation_mode\":\"%s\","
                "\"disaggregation_bootstrap_port\":%d,\"disaggregation_transfer_backend\":\"fake\"}",
                role, port);
    else if (!strcmp(path, "/model_info") || !strcmp(path, "/get_model_info"))
        sprintf(text,
                "{\"model_path\":\"stub\",\"served_model_name\":\"stub\",\"tokenizer_path\":\"\","
                "\"is_generation\":true,\"disaggregation_mode\":\"%s\",\"model_type\":\"llama\","
                "\"architectures\":[\"LlamaForCausalLM\"],\"weight_version\":\"default\"}",
                role);
    else if (!strcmp(path, "/v1/loads"))
        sprintf(text,
                "{\"timestamp\":\"2026-01-01T00:00:00+00:00\",\"version\":\"0.5.23\",\"num_accelerators\":1,"
                "\"loads\":[{\"timestamp\":%ld.0,\"dp_rank\":0,\"num_running_reqs\":%d,\"num_waiting_reqs\":0,"
                "\"num_waiting_uncached_tokens\":0,\"num_used_tokens\":0,\"num_total_tokens\":0,"
                "\"max_total_num_tokens\":100000000,\"max_running_requests\":16384,\"token_usage\":0.0,"
                "\"gen_throughput\":0.0,\"cache_hit_rate\":0.0,\"utilization\":0.0,"
                "\"total_prefill_uncached_tokens\":%lu,\"total_prefill_busy_us\":%lu,"
                "\"disaggregation\":{\"mode\":\"%s\",\"prefill_bootstrap_queue_reqs\":0,"
                "\"prefill_inflight_queue_reqs\":0,\"decode_prealloc_queue_reqs\":0,"
                "\"decode_transfer_queue_reqs\":0,\"decode_retracted_queue_reqs\":0},"
                "\"queues\":{\"waiting\":0,\"grammar\":0,\"paused\":0,\"retracted\":0}}]}",
                (long)time(NULL), seen->n_open_streams, seen->n_requests, seen->n_requests, role);
    else if (!strcmp(path, "/stub/stats"))
        sprintf(text,
                "{\"requests\":%lu,\"streamed\":%lu,\"rooms\":%lu,\"handoffs\":%lu,\"cut\":%lu,\"aborts\":%lu,"
                "\"connections\":%lu,\"open_streams\":%d}",
                seen->n_requests, seen->n_streamed, seen->n_rooms, seen->n_handoffs, seen->n_cut,
                seen->n_aborts, seen->n_connections, seen->n_open_streams);
    else if (!strncmp(path, "/stub/interval/", 15) || !strcmp(path, "/abort_request"))
        strcpy(text, "{}");
    else if (strcmp(path, "/health") && strcmp(path, "/health_generate") && strcmp(path, "/ready") &&
             strcmp(path, "/flush_cache")) {
        strcpy(text, "{\"detail\":\"Not Found\"}");
        return 404;
    }
    return 200;
}

#endif
