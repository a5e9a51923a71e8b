// client-server, Login Fallback: hands the answer of POST /login to the app that shows this page.
const place = document.getElementById("answer");
const answer = JSON.parse(place.dataset.answer);
place.removeAttribute("data-answer");
if (window.matrixLogin && window.matrixLogin.onLogin) {
    window.matrixLogin.onLogin(answer);
}
