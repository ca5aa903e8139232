// From HTTP/2 requests to the broker's RPCs.
//
// As connect-node's connectNodeAdapter, of the same parts. That one writes to stderr by itself, past our log, each time that a
// subscriber goes while something is being sent to it (`ECANCELED`), which is nothing a person should look at.

import { constants, type Http2ServerRequest, type Http2ServerResponse } from "node:http2";
import { createConnectRouter, type ServiceImpl } from "@connectrpc/connect";
import {
  compressionBrotli,
  compressionGzip,
  universalRequestFromNodeRequest,
  universalResponseToNodeResponse,
} from "@connectrpc/connect-node";
import type { Logger } from "../base/log.ts";
import { BrokerService } from "./broker_pb.ts";

export type GrpcHandler = (request: Http2ServerRequest, response: Http2ServerResponse) => void;

/** `maxMessageBytes`: of one message of a caller, before and after decompression. */
export function grpcHandler(
  broker: ServiceImpl<typeof BrokerService>,
  { maxMessageBytes, logger }: { readonly maxMessageBytes: number; readonly logger: Logger },
): GrpcHandler {
  const router = createConnectRouter({
    connect: false,
    grpcWeb: false,
    readMaxBytes: maxMessageBytes,
    acceptCompression: [compressionGzip, compressionBrotli],
  });
  router.service(BrokerService, broker);
  const handlers = new Map(router.handlers.map((handler) => [handler.requestPath, handler]));
  return (request, response) => {
    const handler = handlers.get(request.url.split("?", 1)[0]!);
    if (handler === undefined) {
      response.writeHead(404).end();
      return;
    }
    const rpc = handler.method.name;
    const serve = async () => {
      const call = universalRequestFromNodeRequest(request, response, undefined, undefined);
      await universalResponseToNodeResponse(await handler(call), response);
    };
    serve().catch((error: unknown) => {
      const { stream } = request;
      if (stream.destroyed || stream.aborted) {
        logger.debug({ rpc, error }, "a caller has gone");
        return;
      }
      logger.warn({ rpc, error }, "an RPC failed");
      stream.close(constants.NGHTTP2_INTERNAL_ERROR);
    });
  };
}
