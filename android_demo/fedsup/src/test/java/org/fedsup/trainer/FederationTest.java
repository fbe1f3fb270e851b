package org.fedsup.trainer;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.security.KeyStore;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.function.BooleanSupplier;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import org.json.JSONObject;
import org.junit.After;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Tests that a device takes part despite faults of the network and the server. */
public class FederationTest {
    private static final BooleanSupplier NEVER = () -> false;

    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    private final List<Long> pauses = new ArrayList<>();
    private FakeGateway gateway;

    @Before
    public void start() throws Exception {
        gateway = new FakeGateway(null);
    }

    @After
    public void stop() {
        gateway.close();
    }

    /** Returns a device with the same files, as if its process had restarted. */
    private Participant device(String server, String token) throws Exception {
        Federation federation =
                new Federation(ServerAddress.parse(server, token), 3, pauses::add);
        JSONObject fields = new JSONObject().put("tier", "small").put("application", "test 1");
        return new Participant(federation, folder.getRoot(), fields, 1);
    }

    private Participant device() throws Exception {
        return device(gateway.url(), FakeGateway.TOKEN);
    }

    private static Participant.Visit visit(Participant device) throws Exception {
        List<Example> own = Golden.examples();
        return device.visit(model -> own, NEVER);
    }

    private <E extends Exception> String fails(Class<E> type, Participant device) {
        return assertThrows(type, () -> visit(device)).getMessage();
    }

    private long count(String request) {
        return gateway.requests.stream().filter(request::equals).count();
    }

    @Test
    public void trainsAndSendsAnUpdateOfItsModel() throws Exception {
        Participant.Visit visit = visit(device());
        assertEquals(Participant.Event.SENT, visit.event());
        assertEquals(7, visit.round());
        assertEquals(40, visit.waitSeconds());
        assertTrue(visit.toString(), visit.after().loss() < visit.before().loss());
        assertEquals(1, gateway.updates.size());
        byte[] sent = gateway.updates.values().iterator().next();
        UpdateFile update = UpdateFile.read(sent, ModelMetadata.read(gateway.model));
        assertEquals(Golden.examples().size(), update.after().examples());
        assertTrue(gateway.checkIn, gateway.checkIn.contains("\"runtime\":\"tensorflow-lite "));

        assertEquals(Participant.Event.WAITS, visit(device()).event());
        assertTrue(gateway.checkIn, gateway.checkIn.contains(ModelMetadata.sha256(gateway.model)));
        assertEquals("it enrols once", 1, count("enrol"));
        assertEquals("and fetches once", 1, count("model"));
    }

    @Test
    public void signsAsTheProtocolSays() {
        StringBuilder key = new StringBuilder();
        for (int value = 0; value < 32; value++) {
            key.append(String.format("%02x", value));
        }
        assertEquals("d25c3d57c667a64c17175836658da7ed16739b6df31162dceb5746604a3491af",
                RequestSignature.of(key.toString(), "GET", "/v1/status",
                        ModelMetadata.sha256(new byte[0]), 1_700_000_000));
    }

    @Test
    public void aBrokenTransferGoesOnWhereItWas() throws Exception {
        gateway.fault("model", exchange -> {
            exchange.sendResponseHeaders(200, gateway.model.length);
            exchange.getResponseBody().write(gateway.model, 0, 5000);
            exchange.getResponseBody().flush();
            return false; // The connection ends here.
        });
        assertEquals(Participant.Event.SENT, visit(device()).event());
        assertEquals(1, gateway.requests.stream().filter("model bytes=5000-"::equals).count());
    }

    @Test
    public void aModelOfAnotherHashIsThrownAway() throws Exception {
        gateway.fault("model", exchange -> {
            exchange.sendResponseHeaders(200, gateway.model.length);
            exchange.getResponseBody().write(new byte[gateway.model.length]);
            return false;
        });
        String message = fails(UnavailableException.class, device());
        assertTrue(message, message.contains("another hash"));
        assertEquals(Participant.Event.SENT, visit(device()).event());
    }

    @Test
    public void aServerThatIsBusyIsAskedAgainWhenItSays() throws Exception {
        gateway.fault("update", FakeGateway.refusal(503, "unavailable", "Retry-After", "7"));
        assertEquals(Participant.Event.SENT, visit(device()).event());
        assertEquals(Collections.singletonList(7000L), pauses);
    }

    @Test
    public void anUpdateWaitsForAServerThatIsGone() throws Exception {
        for (int attempt = 0; attempt < 3; attempt++) {
            gateway.fault("update", FakeGateway.refusal(503, "unavailable", "Retry-After", "7"));
        }
        UnavailableException error =
                assertThrows(UnavailableException.class, () -> visit(device()));
        assertEquals(7, error.seconds);
        assertEquals("It says unavailable.", error.getMessage());
        assertTrue(gateway.updates.isEmpty());
        int before = gateway.requests.size();
        Participant.Visit visit = visit(device());
        assertEquals(Participant.Event.SENT, visit.event());
        assertTrue("the scores are remembered", visit.after().loss() < visit.before().loss());
        assertEquals("it is not trained again", before + 1, gateway.requests.size());
    }

    @Test
    public void anUpdateWhoseAnswerWasLostIsTheSameWhenItIsSentAgain() throws Exception {
        gateway.fault("update", exchange -> {
            String path = exchange.getRequestURI().getPath();
            gateway.updates.put(
                    path.substring(path.lastIndexOf('/') + 1), exchange.getRequestBody().readAllBytes());
            return false;
        });
        assertEquals(Participant.Event.SENT, visit(device()).event());
        assertEquals(1, gateway.updates.size());
        assertTrue(count("update") >= 2);
    }

    @Test
    public void anUpdateThatIsRefusedIsForgotten() throws Exception {
        gateway.fault("update", FakeGateway.refusal(410, "stale"));
        Participant.Visit visit = visit(device());
        assertEquals(Participant.Event.REFUSED, visit.event());
        assertEquals("It says stale.", visit.message());
        visit(device());
        assertEquals("the task was done anew", 1, gateway.updates.size());
    }

    @Test
    public void aServerOfAnotherVersionIsTold() throws Exception {
        gateway.protocol = 2;
        String message = fails(FederationException.class, device());
        assertEquals(gateway.url() + ": expected a server of protocol version 1, received 2. Update "
                + "the app to the version that the server has (9).", message);
        assertEquals(Collections.singletonList("health"), gateway.requests);
    }

    @Test
    public void whatIsNoGatewayIsTold() throws Exception {
        gateway.fault("health", exchange -> {
            FakeGateway.send(exchange, 200, "<html>");
            return false;
        });
        String message = fails(FederationException.class, device());
        assertTrue(message, message.endsWith("Check that the address is that of a fedsup serve."));
    }

    @Test
    public void aWrongTokenAndARevokedDeviceAreTold() throws Exception {
        String message = fails(FederationException.class, device(gateway.url(), "another"));
        assertEquals(gateway.url() + ": Expected the token.", message);
        assertThrows(FederationException.class, () -> visit(device(gateway.url(), null)));
        gateway.fault("check-in", FakeGateway.refusal(403, "revoked"));
        assertEquals(gateway.url() + ": It says revoked.", fails(FederationException.class, device()));
    }

    @Test
    public void aClockThatIsWrongIsSetByTheServers() throws Exception {
        // The fake server sends a Date header with this machine's time.
        gateway.fault("check-in", FakeGateway.refusal(401, "time"));
        assertEquals(Participant.Event.SENT, visit(device()).event());
        assertEquals(2, count("check-in"));
    }

    @Test
    public void aFullDiskIsToldAndMended() throws Exception {
        File models = folder.newFolder("models");
        // Writing to /dev/full fails as on a full disk.
        File part = new File(models, ModelMetadata.sha256(gateway.model) + ".tflite.part");
        Files.createSymbolicLink(part.toPath(), Paths.get("/dev/full"));
        String message = fails(IOException.class, device());
        assertEquals("Could not save the model (No space left on device): make room on this device "
                + "and try again.", message);
        assertTrue(part.delete());
        assertEquals(Participant.Event.SENT, visit(device()).event());
    }

    @Test
    public void stopsBetweenTwoStepsAndSendsNothing() throws Exception {
        int[] steps = {0};
        List<Example> own = Golden.examples();
        Participant.Visit visit = device().visit(model -> own, () -> ++steps[0] == 2);
        assertEquals(Participant.Event.STOPPED, visit.event());
        assertNull(visit.after());
        assertTrue(gateway.updates.isEmpty());
        assertEquals(Participant.Event.SENT, visit(device()).event());
    }

    @Test
    public void whatIsStoppedBeforeItIsSentWaitsForTheNextVisit() throws Exception {
        List<Example> own = Golden.examples();
        int[] steps = {0};
        device().visit(model -> own, () -> ++steps[0] < 0);
        gateway.updates.clear();
        int last = steps[0];
        steps[0] = 0;
        Participant.Visit visit = device().visit(model -> own, () -> ++steps[0] == last);
        assertEquals(Participant.Event.STOPPED, visit.event());
        assertTrue("nothing was sent", gateway.updates.isEmpty());
        assertEquals(Participant.Event.STOPPED, device().visit(model -> own, () -> true).event());
        long trained = count("check-in");
        assertEquals(Participant.Event.SENT, visit(device()).event());
        assertEquals("it is not trained again", trained, count("check-in"));
    }

    @Test
    public void aDamagedUpdateIsTrainedAnewAndADamagedIdentityIsTold() throws Exception {
        for (int attempt = 0; attempt < 3; attempt++) {
            gateway.fault("update", FakeGateway.refusal(503, "unavailable"));
        }
        fails(UnavailableException.class, device());
        File pending = new File(folder.getRoot(), "pending.json");
        Files.write(pending.toPath(), "{".getBytes());
        assertEquals(Participant.Event.SENT, visit(device()).event());
        File identity = new File(folder.getRoot(), "identity.json");
        Files.write(identity.toPath(), "{".getBytes());
        String message = fails(UnusableFileException.class, device());
        assertTrue(message, message.endsWith("delete " + identity + " to enrol anew."));
    }

    @Test
    public void aTaskBeyondTheProtocolsBoundsIsTold() throws Exception {
        for (String wrong : Arrays.asList("\"epochs\": 2000000000", "\"learning_rate\": 1e300",
                "\"model_bytes\": 2147483647")) {
            gateway.taskFields = wrong;
            String message = fails(FederationException.class, device());
            assertTrue(message, message.contains("expected an answer of the protocol"));
        }
        assertEquals("no model was fetched", 0, count("model"));
    }

    @Test
    public void withoutExamplesItSendsNothing() throws Exception {
        Participant.Visit visit = device().visit(model -> List.of(), NEVER);
        assertEquals(Participant.Event.NEEDS_EXAMPLES, visit.event());
        assertFalse(gateway.requests.contains("update"));
    }

    @Test
    public void trustsTheCertificateOfTheLinkAndNoOther() throws Exception {
        String right = certificate("right");
        String other = certificate("other");
        gateway.close();
        gateway = new FakeGateway(tls("right"));
        String link = "fedsup://enrol?server=" + gateway.url().replace(":", "%3A").replace("/", "%2F")
                + "&token=" + FakeGateway.TOKEN + "&certificate=";
        String message = fails(FederationException.class, device(link + other, null));
        assertTrue(message, message.startsWith(gateway.url() + ": expected the certificate "
                + other.substring(0, 12) + "... of the server's link, received another one. Nothing"));
        message = fails(FederationException.class, device(gateway.url(), FakeGateway.TOKEN));
        assertTrue(message, message.contains("a certificate that a public authority signed"));
        assertTrue("nothing was sent", gateway.requests.isEmpty());
        assertEquals(Participant.Event.SENT, visit(device(link + right, null)).event());
    }

    @Test
    public void readsLinksAndAddresses() throws Exception {
        ServerAddress read = ServerAddress.parse(
                " fedsup://enrol?server=https%3A%2F%2Fa.org%3A8443&token=t-1&certificate="
                        + "f".repeat(64) + "\n", null);
        assertEquals("https://a.org:8443", read.url);
        assertEquals("t-1", read.token);
        assertEquals("f".repeat(64), read.certificate);
        assertEquals("https://a.org/x", ServerAddress.parse("https://a.org/x/", "t").url);
        for (String wrong : Arrays.asList("", "a.org", "ftp://a.org", "http://a.org", "https://",
                "https://a.org?b", "https://a.org:0", "https://a.org:65536", "https://b@a.org",
                "https://a_b.org", "fedsup://enrol?token=t", "fedsup://other?server=https://a.org&token=t",
                "fedsup://enrol?server=https%3A%2F%2Fa.org&token=t&certificate=12",
                "fedsup://enrol?server=%zz&token=t")) {
            String message = assertThrows(wrong, FederationException.class,
                    () -> ServerAddress.parse(wrong, "t")).getMessage();
            assertTrue(message, message.contains("expected") && message.contains("received"));
        }
    }

    /** Makes a self-signed certificate; returns its SHA-256. */
    private String certificate(String name) throws Exception {
        String keytool = System.getProperty("java.home") + "/bin/keytool";
        Process process = new ProcessBuilder(keytool, "-genkeypair", "-keystore",
                new File(folder.getRoot(), name).getPath(), "-storepass", "secret", "-keypass", "secret",
                "-alias", "a", "-keyalg", "EC", "-validity", "9", "-dname", "CN=localhost")
                .redirectErrorStream(true).start();
        process.getInputStream().readAllBytes();
        assertEquals(0, process.waitFor());
        return ModelMetadata.sha256(store(name).getCertificate("a").getEncoded());
    }

    private KeyStore store(String name) throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        try (InputStream in = new FileInputStream(new File(folder.getRoot(), name))) {
            store.load(in, "secret".toCharArray());
        }
        return store;
    }

    private SSLContext tls(String name) throws Exception {
        KeyManagerFactory keys = KeyManagerFactory.getInstance("PKIX");
        keys.init(store(name), "secret".toCharArray());
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), null, null);
        return context;
    }
}
